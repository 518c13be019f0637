{#- Incremental by day: a day counts its users once for all, and the marts add up days. A user's first day
    can only move within the window, so the days before it stay as they are. -#}
{{ config(
    materialized='incremental',
    incremental_strategy='replace_days',
    on_schema_change='fail',
    meta={'replace_by': 'activity_date'},
) }}

{%- set base = snapshot_before((modules.datetime.date.fromisoformat(given('reprocess_from')) - modules.datetime.timedelta(days=1)).isoformat())
    if is_incremental() else none %}

with known as (
    select user_id, first_active_day, last_active_day
    from {{ ref('int_user_history') }}
    where first_active_day is not null
        and {% if base %}event_timestamp = {{ end_of(base) }}{% else %}false{% endif %}
),

active_days as (
    select user_id, activity_date
    from {{ ref('user_daily_activity') }}
    where events > 0
        {%- if base %} and activity_date > cast('{{ base }}' as date){% endif %}
),

followed as (
    select
        active_days.activity_date,
        coalesce(known.first_active_day, min(active_days.activity_date) over (partition by active_days.user_id)) as first_date,
        coalesce(
            lag(active_days.activity_date) over (partition by active_days.user_id order by active_days.activity_date),
            known.last_active_day
        ) as previous_date
    from active_days
    left join known on active_days.user_id = known.user_id
)

select
    activity_date,
    first_date,
    count(*) as users,
    {%- for grain, days in {'week': 7, 'month': 30}.items() %}
    count(case
        when previous_date is null
            or {{ dbt.date_trunc(grain, 'previous_date') }} <> {{ dbt.date_trunc(grain, 'activity_date') }}
            then 1
    end) as first_in_{{ grain }},
    count(case
        when previous_date is null
            or floor({{ dbt.datediff('first_date', 'previous_date', 'day') }} / {{ days }}.0)
            <> floor({{ dbt.datediff('first_date', 'activity_date', 'day') }} / {{ days }}.0)
            then 1
    end) as first_in_own_{{ grain }}
    {{- ',' if not loop.last }}
    {%- endfor %}
from followed
where {{ in_window('activity_date') }}
group by activity_date, first_date
order by activity_date
