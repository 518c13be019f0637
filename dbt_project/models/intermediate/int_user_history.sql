{#- What is known of a user for ever, kept on the snapshot days. A new snapshot carries on from the last
    one before it, so it reads some days of activity and never all of them. -#}
{{ config(
    materialized='incremental',
    incremental_strategy='append',
    on_schema_change='fail',
    pre_hook="{{ drop_stale_snapshots() }}",
) }}

{%- set missing = missing_days() -%}
{%- set base = snapshot_before(missing[0]) if is_incremental() else none %}

with snapshots as (
    {{ snapshots_of(missing) }}
),

activity as (
    select *, {{ counts_from('activity_date', missing[0]) }} as counts_from
    from {{ ref('user_daily_activity') }}
    where activity_date <= {{ night() }}
        {%- if base %} and activity_date > cast('{{ base }}' as date){% endif %}
),

trade as (
    select
        user_id,
        {{ counts_from('trade_date', missing[0]) }} as counts_from,
        min(case when orders > 0 then trade_date end) as first_order_day,
        max(case when orders > 0 then trade_date end) as last_order_day,
        sum(orders) as orders,
        sum(items) as items,
        sum(days_since_previous * days_since_previous) as squared_gaps
    from {{ ref('int_user_trade_days') }}
    where trade_date <= {{ night() }}
        {%- if base %} and trade_date > cast('{{ base }}' as date){% endif %}
    group by user_id, counts_from
),

steps as (
    select
        activity.user_id,
        activity.counts_from,
        min(activity_date) as first_day,
        min(case when events > 0 then activity_date end) as first_active_day,
        max(case when events > 0 then activity_date end) as last_active_day,
        count(case when events > 0 then 1 end) as active_days,
        min(first_event_at) as first_event_at,
        min(case when events > 0 then first_event_at end) as first_active_at,
        max(last_event_at) as last_event_at,
        max(case when events > 0 then last_event_at end) as last_active_at,
        {{ first_by('first_channel', ['activity_date']) }} as first_channel,
        {{ last_by('last_country', ['activity_date']) }} as country,
        sum(units) as units,
        sum(gross_revenue) as gross_revenue,
        sum(refunded_revenue) as refunded_revenue,
        sum(net_revenue) as net_revenue
    from activity
    group by activity.user_id, activity.counts_from
),

history as (
    select
        steps.*,
        trade.first_order_day,
        trade.last_order_day,
        trade.orders,
        trade.items,
        trade.squared_gaps
    from steps
    left join trade on steps.user_id = trade.user_id and steps.counts_from = trade.counts_from
    {%- if base %}
    union all
    select
        user_id, cast('{{ base }}' as date) as counts_from, first_day, first_active_day, last_active_day,
        active_days, first_event_at, first_active_at, last_event_at, last_active_at, first_channel,
        country, units, gross_revenue, refunded_revenue, net_revenue, first_order_day, last_order_day,
        orders, items, squared_gaps
    from {{ this }}
    where event_timestamp = {{ end_of(base) }}
    {%- endif %}
)

select
    history.user_id,
    snapshots.event_timestamp,
    min(first_day) as first_day,
    min(first_active_day) as first_active_day,
    max(last_active_day) as last_active_day,
    cast(sum(active_days) as bigint) as active_days,
    min(first_event_at) as first_event_at,
    min(first_active_at) as first_active_at,
    max(last_event_at) as last_event_at,
    max(last_active_at) as last_active_at,
    {{ first_by('first_channel', ['counts_from']) }} as first_channel,
    {{ last_by('country', ['counts_from']) }} as country,
    cast(sum(units) as bigint) as units,
    sum(gross_revenue) as gross_revenue,
    sum(refunded_revenue) as refunded_revenue,
    sum(net_revenue) as net_revenue,
    min(first_order_day) as first_order_day,
    max(last_order_day) as last_order_day,
    cast(coalesce(sum(orders), 0) as bigint) as orders,
    cast(coalesce(sum(items), 0) as bigint) as items,
    cast(sum(squared_gaps) as bigint) as squared_gaps
from history
inner join snapshots on history.counts_from <= snapshots.snapshot_day
group by history.user_id, snapshots.event_timestamp
order by snapshots.event_timestamp
