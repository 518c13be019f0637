{#- The rhythm of a customer's buying over a year, where user_behaviour_v1 sees 90 days. As there, a
    refund counts from the day it happens. -#}
{{ config(
    contract={'enforced': true},
    materialized='incremental',
    incremental_strategy='append',
    on_schema_change='fail',
    schema='features',
    pre_hook="{{ drop_stale_snapshots() }}",
) }}

{%- set windows = [180, 365] -%}
{%- set missing = missing_days() %}

with snapshots as (
    {{ snapshots_of(missing, windows) }}
),

known as (
    select user_id, event_timestamp from {{ ref('int_user_history') }}
    where event_timestamp in (select event_timestamp from snapshots)
),

trade_days as (
    select
        activity.user_id,
        activity.activity_date as on_day,
        coalesce(trade.orders, 0) as orders,
        trade.days_since_previous as gap,
        activity.net_revenue as amount
    from {{ ref('user_daily_activity') }} as activity
    left join {{ ref('int_user_trade_days') }} as trade
        on activity.user_id = trade.user_id and activity.activity_date = trade.trade_date
    where {{ within(365, 'activity.activity_date', missing) }}
        and (trade.orders > 0 or activity.gross_revenue <> 0 or activity.refunded_revenue <> 0)
),

aged as (
    select
        trade_days.*,
        snapshots.snapshot_day,
        snapshots.before_180d,
        {{ dbt.datediff('trade_days.on_day', 'snapshots.event_timestamp', 'day') }} as days_back
    from trade_days
    inner join snapshots
        on trade_days.on_day <= snapshots.snapshot_day
        and trade_days.on_day > snapshots.before_365d
),

summed as (
    select
        user_id,
        snapshot_day,
        sum(case when on_day > before_180d then orders else 0 end) as orders_180d,
        sum(orders) as orders_365d,
        sum(case when on_day > before_180d then amount else 0 end) as amount_180d,
        sum(amount) as amount_365d,
        count(case when orders > 0 then 1 end) as order_days_365d,
        -- whole millionths, whose sum does not depend on order
        sum(orders * cast(round(1000000 * exp(-days_back / 60.0)) as bigint)) as faded_orders,
        sum(cast(round(cast(amount as double) * 1000000 * exp(-days_back / 120.0)) as decimal(38, 0))) as faded_amount,
        {{ last_by('case when orders > 0 then amount end', ['on_day']) }} as last_order_amount,
        max(case when orders > 0 then amount end) as largest_order_amount_365d,
        {{ last_by('gap', ['on_day']) }} as last_gap_days,
        max(gap) as longest_gap_days_365d,
        sum(case when days_back > 275 then orders else 0 end) as orders_year_ago_90d,
        sum(case when days_back > 275 then amount else 0 end) as amount_year_ago_90d,
        sum(case when days_back > 335 then orders else 0 end) as orders_year_ago_30d
    from aged
    group by user_id, snapshot_day
)

select
    known.user_id,
    known.event_timestamp,
    cast(coalesce(orders_180d, 0) as bigint) as orders_180d,
    cast(coalesce(orders_365d, 0) as bigint) as orders_365d,
    cast(coalesce(amount_180d, 0) as double) as amount_180d,
    cast(coalesce(amount_365d, 0) as double) as amount_365d,
    coalesce(order_days_365d, 0) as order_days_365d,
    cast(coalesce(faded_orders, 0) as double) / 1000000 as faded_orders,
    cast(coalesce(faded_amount, 0) as double) / 1000000 as faded_amount,
    cast(last_order_amount as double) as last_order_amount,
    cast(largest_order_amount_365d as double) as largest_order_amount_365d,
    cast(last_gap_days as double) as last_gap_days,
    cast(longest_gap_days_365d as double) as longest_gap_days_365d,
    cast(coalesce(orders_year_ago_90d, 0) as bigint) as orders_year_ago_90d,
    cast(coalesce(amount_year_ago_90d, 0) as double) as amount_year_ago_90d,
    cast(coalesce(orders_year_ago_30d, 0) as bigint) as orders_year_ago_30d
from known
inner join snapshots on known.event_timestamp = snapshots.event_timestamp
left join summed on known.user_id = summed.user_id and snapshots.snapshot_day = summed.snapshot_day
order by known.event_timestamp, known.user_id
