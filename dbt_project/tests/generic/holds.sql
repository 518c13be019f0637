{#- A statement about one row that is true of every row; NULL counts as false. -#}
{% test holds(model, expression) %}
select *
from {{ model }}
where ({{ expression }}) is not true
{% endtest %}
