{#- Incremental by day: the last page before midnight is the reason why the window starts a day early. -#}
{{ config(
    materialized='incremental',
    incremental_strategy='replace_days',
    on_schema_change='fail',
    meta={'replace_by': 'stat_date'},
) }}

with pages as (
    select event_date as stat_date, event_type, dwell_ms
    from {{ ref('fct_events') }}
    -- the lines of an order are bought at one instant: their zeros say nothing about pages
    where is_activity
        and event_type <> 'purchase'
        and {{ in_window('event_date') }}
),

bounds as (
    select
        stat_date,
        event_type,
        count(*) as events,
        count(dwell_ms) as with_dwell,
        {{ quantile('dwell_ms', 0.05) }} as low_ms,
        {{ quantile('dwell_ms', 0.5) }} as median_ms,
        {{ quantile('dwell_ms', 0.95) }} as high_ms
    from pages
    group by stat_date, event_type
),

winsorised as (
    select
        pages.stat_date,
        pages.event_type,
        -- whole milliseconds: their sum has no order
        sum(greatest(bounds.low_ms, least(bounds.high_ms, pages.dwell_ms))) as total_ms
    from pages
    inner join bounds on pages.stat_date = bounds.stat_date and pages.event_type = bounds.event_type
    where pages.dwell_ms is not null
    group by pages.stat_date, pages.event_type
)

select
    bounds.stat_date,
    bounds.event_type,
    bounds.events,
    bounds.with_dwell,
    bounds.with_dwell / cast(bounds.events as double) as coverage,
    bounds.median_ms,
    cast(winsorised.total_ms as double) / bounds.with_dwell as winsorised_mean_ms
from bounds
left join winsorised on bounds.stat_date = winsorised.stat_date and bounds.event_type = winsorised.event_type
