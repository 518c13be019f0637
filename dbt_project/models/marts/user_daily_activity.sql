{#- Incremental by day: a user's day is made of that day's events alone. -#}
{{ config(
    materialized='incremental',
    incremental_strategy='replace_days',
    on_schema_change='fail',
    meta={'replace_by': 'activity_date'},
) }}

with events as (
    select
        *,
        quantity * unit_price as amount
    from {{ ref('fct_events') }}
    where user_id is not null
        and {{ in_window('event_date') }}
)

select
    user_id,
    event_date as activity_date,
    coalesce(min(case when is_activity then event_ts end), min(event_ts)) as first_event_at,
    coalesce(max(case when is_activity then event_ts end), max(event_ts)) as last_event_at,
    count(case when is_activity then 1 end) as events,
    count(case when event_type = 'view' then 1 end) as views,
    count(case when event_type = 'click' then 1 end) as clicks,
    count(case when event_type = 'search' then 1 end) as searches,
    count(case when event_type = 'cart_add' then 1 end) as cart_adds,
    count(case when event_type = 'cart_remove' then 1 end) as cart_removes,
    count(case when event_type = 'checkout' then 1 end) as checkouts,
    count(case when event_type = 'exposure' then 1 end) as exposures,
    count(distinct case when event_type = 'purchase' then order_id end) as orders,
    cast(coalesce(sum(case when event_type = 'purchase' then quantity end), 0) as bigint) as units,
    cast(coalesce(sum(case when event_type = 'purchase' then amount end), 0) as decimal(38, 4)) as gross_revenue,
    cast(coalesce(sum(case when event_type = 'refund' then amount end), 0) as decimal(38, 4)) as refunded_revenue,
    cast(
        coalesce(sum(case when event_type = 'purchase' then amount when event_type = 'refund' then -amount end), 0)
        as decimal(38, 4)
    ) as net_revenue,
    count(distinct session_key) as sessions,
    cast(coalesce(sum(dwell_ms), 0) as bigint) as dwell_ms,
    count(distinct case when event_type = 'view' then item_id end) as items_viewed,
    count(distinct case when event_type = 'purchase' then item_id end) as items_bought,
    {{ first_by('channel', ['event_ts', 'event_id']) }} as first_channel,
    {{ last_by('country', ['event_ts', 'event_id']) }} as last_country
from events
group by user_id, event_date
order by activity_date
