{#- Incremental, as funnel_daily is: a session counts on the day it began, which may lie before the window.
    Who a visitor was on a day depends on the days before it only. -#}
{{ config(
    materialized='incremental',
    incremental_strategy='replace_days',
    unique_key='stat_date',
    on_schema_change='fail',
    meta={'replace_by': 'stat_date'},
) }}

with sessions as (
    select * from {{ ref('fct_sessions') }}
    {% if is_incremental() %}
    where session_date in (
        select session_date from {{ ref('fct_sessions') }} where ended_at >= {{ window_start() }}
    )
    {% endif %}
),

known as (
    select user_id, first_active_day, first_order_day
    from {{ ref('int_user_history') }}
    where event_timestamp = {{ end_of(given('night')) }}
),

visits as (
    select
        sessions.session_date as stat_date,
        case
            when sessions.user_id is null then 'guest'
            when known.first_order_day < sessions.session_date then 'customer'
            when known.first_active_day < sessions.session_date then 'returning'
            else 'new'
        end as visitor_kind,
        sessions.depth,
        sessions.dwell_ms,
        cast(round(sessions.dwell_ms / 1000.0) as bigint) as dwell_s,
        sessions.purchases
    from sessions
    left join known on sessions.user_id = known.user_id
)

select
    stat_date,
    visitor_kind,
    count(*) as sessions,
    count(case when purchases > 0 then 1 end) as sessions_purchase,
    cast(sum(depth) as bigint) as pages,
    cast(sum(depth * depth) as bigint) as squared_pages,
    count(dwell_ms) as with_dwell,
    cast(coalesce(sum(dwell_s), 0) as bigint) as dwell_s,
    cast(coalesce(sum(dwell_s * dwell_s), 0) as bigint) as squared_dwell_s,
    cast({{ quantile('dwell_ms', 0.5) }} as bigint) as median_dwell_ms
from visits
group by stat_date, visitor_kind
