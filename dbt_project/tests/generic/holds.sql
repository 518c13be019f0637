{#- A statement about one row that is true of every row; NULL counts as false. With `day` (a DATE or a
    TIMESTAMP column) only of the days that this run builds: the others have been looked at before. -#}
{% test holds(model, expression, day=none) %}
select *
from {{ model }}
where ({{ expression }}) is not true
{%- if day %}
    and {{ day }} >= {{ window_start() }}
{%- endif %}
{% endtest %}
