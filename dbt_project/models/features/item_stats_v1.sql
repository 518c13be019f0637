{#- As in user_behaviour_v1, a snapshot knows nothing of its future: a refund counts from the day it happens. -#}
{{ config(
    contract={'enforced': true},
    materialized='incremental',
    incremental_strategy='append',
    on_schema_change='fail',
    schema='features',
    pre_hook="{{ drop_stale_snapshots(changed_item_snapshots()) }}",
) }}

{%- set windows = [7, 30, 90] -%}
{%- set counted = ['views', 'clicks', 'cart_adds', 'exposures', 'purchases', 'units', 'refunded_units'] %}

{%- set missing = missing_days(changed_item_snapshots()) %}

with snapshots as (
    {{ snapshots_of(missing, windows) }}
),

-- what is known since the first event; one row per item of each snapshot
history as (
    select * from {{ ref('int_item_history') }}
    where event_timestamp in (select event_timestamp from snapshots)
),

base as (
    select items.item_id, items.first_day, items.price, snapshots.snapshot_day, snapshots.event_timestamp
    from {{ ref('int_item_snapshots') }} as items
    inner join snapshots on items.event_timestamp = snapshots.event_timestamp
),

stat_windows as (
    select
        item_id,
        snapshot_day,
        {%- for window in windows %}
        {%- for name in counted %}
        sum(case when stat_date > before_{{ window }}d then {{ name }} else 0 end) as {{ name }}_{{ window }}d,
        {%- endfor %}
        sum(case when stat_date > before_{{ window }}d then revenue else 0 end) as revenue_{{ window }}d
        {{- ',' if not loop.last }}
        {%- endfor %}
    from {{ ref('item_daily_stats') }}
    inner join snapshots
        on stat_date <= snapshot_day
        and stat_date > before_90d
    where {{ within(90, 'stat_date', missing) }}
    group by item_id, snapshot_day
),

buying_days as (
    select
        item_id,
        buying_date as on_day,
        lead(buying_date) over (partition by item_id, user_id order by buying_date) as next_day
    from {{ ref('int_buying_days') }}
    where {{ within(90, 'buying_date', missing) }}
),

-- A buyer counts once in a window: on the last day of buying before the snapshot.
buyer_windows as (
    select
        item_id,
        snapshot_day,
        {%- for window in windows %}
        count(case when on_day > before_{{ window }}d then 1 end) as buyers_{{ window }}d
        {{- ',' if not loop.last }}
        {%- endfor %}
    from buying_days
    inner join snapshots
        on on_day <= snapshot_day
        and on_day > before_90d
        and (next_day is null or next_day > snapshot_day)
    group by item_id, snapshot_day
)

select
    base.item_id,
    base.event_timestamp,
    {{ days_since('base.first_day', 'base.event_timestamp') }} as days_since_first_seen,
    cast(base.price as double) as price,

    -- counts in the last days
    {%- for window in windows %}
    {%- for name in counted %}
    cast(coalesce(stat_windows.{{ name }}_{{ window }}d, 0) as bigint) as {{ name }}_{{ window }}d,
    {%- endfor %}
    cast(coalesce(stat_windows.revenue_{{ window }}d, 0) as double) as revenue_{{ window }}d,
    coalesce(buyer_windows.buyers_{{ window }}d, 0) as buyers_{{ window }}d,
    {%- endfor %}

    -- of those who saw it
    {%- for window in windows[1:] %}
    {{ ratio('stat_windows.cart_adds_' ~ window ~ 'd', 'stat_windows.views_' ~ window ~ 'd') }} as cart_rate_{{ window }}d,
    {{ ratio('stat_windows.purchases_' ~ window ~ 'd', 'stat_windows.views_' ~ window ~ 'd') }} as conversion_{{ window }}d,
    {{ ratio('stat_windows.clicks_' ~ window ~ 'd', 'stat_windows.exposures_' ~ window ~ 'd') }} as clicks_per_exposure_{{ window }}d,
    {%- endfor %}

    -- since it was first sold
    coalesce(history.purchases, 0) as purchases,
    coalesce(history.buyers, 0) as buyers,
    {{ ratio('history.repeat_buyers', 'history.buyers') }} as repeat_buyer_share,
    {{ ratio('history.refunded_units', 'history.units') }} as refund_ratio,

    -- among all items of the same snapshot
    rank() over (partition by base.event_timestamp order by coalesce(stat_windows.purchases_30d, 0) desc, coalesce(stat_windows.views_30d, 0) desc) as popularity_rank_30d,
    ln(1 + cast(coalesce(stat_windows.purchases_30d, 0) as double)) as log_purchases_30d,
    ln(1 + cast(coalesce(stat_windows.views_30d, 0) as double)) as log_views_30d
from base
left join stat_windows
    on base.item_id = stat_windows.item_id
    and base.snapshot_day = stat_windows.snapshot_day
left join history
    on base.item_id = history.item_id
    and base.event_timestamp = history.event_timestamp
left join buyer_windows
    on base.item_id = buyer_windows.item_id
    and base.snapshot_day = buyer_windows.snapshot_day
order by base.event_timestamp, base.item_id
