{#- The stays of each `of` follow one another without a hole, and only the last goes on. -#}
{% test unbroken_stays(model, of) %}
select *
from (
    select
        *,
        lead(from_night) over (partition by {{ of | join(', ') }} order by from_night) as next_night
    from {{ model }}
) as stays
where coalesce(next_night, cast('9999-12-31' as date))
    <> coalesce({{ dbt.dateadd('day', 1, 'to_night') }}, cast('9999-12-31' as date))
{% endtest %}
