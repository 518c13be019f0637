{#- As in user_behaviour_v1, a snapshot knows nothing of its future: the price is that of the version
    valid at the snapshot, a refund counts from the day it happens. -#}
{{ config(
    contract={'enforced': true},
    materialized='incremental',
    incremental_strategy='append',
    on_schema_change='fail',
    schema='features',
    pre_hook="{{ drop_stale_snapshots() }}",
) }}

{%- set windows = [7, 30, 90] -%}
{%- set counted = ['views', 'clicks', 'cart_adds', 'exposures', 'purchases', 'units', 'refunded_units'] %}

with snapshots as (
    {{ missing_snapshots(windows) }}
),

known_items as (
    select item_id, min(first_day) as first_day
    from (
        select item_id, stat_date as first_day from {{ ref('item_daily_stats') }}
        union all
        select item_id, cast(valid_from as date) as first_day from {{ ref('stg_items') }}
    ) as sightings
    where item_id is not null
    group by item_id
),

base as (
    select known_items.item_id, known_items.first_day, snapshots.snapshot_day, snapshots.event_timestamp
    from known_items
    inner join snapshots on known_items.first_day <= snapshots.snapshot_day
),

list_prices as (
    select
        item_id,
        price,
        valid_from,
        lead(valid_from) over (partition by item_id order by valid_from) as next_valid_from
    from {{ ref('stg_items') }}
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
    group by item_id, snapshot_day
),

stats_to_date as (
    select
        item_id,
        stat_date as on_day,
        lead(stat_date) over (partition by item_id order by stat_date) as next_day,
        sum(purchases) over to_date as purchases,
        sum(units) over to_date as units,
        sum(refunded_units) over to_date as refunded_units
    from {{ ref('item_daily_stats') }}
    window to_date as (partition by item_id order by stat_date rows between unbounded preceding and current row)
),

buying_days as (
    select
        item_id,
        on_day,
        row_number() over (partition by item_id, user_id order by on_day) as nth_day,
        lead(on_day) over (partition by item_id, user_id order by on_day) as next_day
    from (
        select distinct item_id, user_id, line_date as on_day
        from {{ ref('fct_order_lines') }}
        where user_id is not null and line_type = 'purchase'
    ) as purchases
),

-- A buyer counts once in a window: on the last day of buying before the snapshot.
buyer_windows as (
    select
        item_id,
        snapshot_day,
        count(*) as buyers,
        count(case when nth_day > 1 then 1 end) as repeat_buyers,
        {%- for window in windows %}
        count(case when on_day > before_{{ window }}d then 1 end) as buyers_{{ window }}d
        {{- ',' if not loop.last }}
        {%- endfor %}
    from buying_days
    inner join snapshots
        on on_day <= snapshot_day
        and (next_day is null or next_day > snapshot_day)
    group by item_id, snapshot_day
)

select
    base.item_id,
    base.event_timestamp,
    {{ days_since('base.first_day', 'base.event_timestamp') }} as days_since_first_seen,
    cast(list_prices.price as double) as price,

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
    cast(coalesce(stats_to_date.purchases, 0) as bigint) as purchases,
    coalesce(buyer_windows.buyers, 0) as buyers,
    {{ ratio('buyer_windows.repeat_buyers', 'buyer_windows.buyers') }} as repeat_buyer_share,
    {{ ratio('stats_to_date.refunded_units', 'stats_to_date.units') }} as refund_ratio,

    -- among all items of the same snapshot
    rank() over (partition by base.event_timestamp order by coalesce(stat_windows.purchases_30d, 0) desc, coalesce(stat_windows.views_30d, 0) desc) as popularity_rank_30d,
    ln(1 + cast(coalesce(stat_windows.purchases_30d, 0) as double)) as log_purchases_30d,
    ln(1 + cast(coalesce(stat_windows.views_30d, 0) as double)) as log_views_30d
from base
left join list_prices
    on base.item_id = list_prices.item_id
    and base.event_timestamp > list_prices.valid_from
    and (list_prices.next_valid_from is null or base.event_timestamp <= list_prices.next_valid_from)
left join stat_windows
    on base.item_id = stat_windows.item_id
    and base.snapshot_day = stat_windows.snapshot_day
left join stats_to_date
    on base.item_id = stats_to_date.item_id
    and base.snapshot_day >= stats_to_date.on_day
    and (stats_to_date.next_day is null or base.snapshot_day < stats_to_date.next_day)
left join buyer_windows
    on base.item_id = buyer_windows.item_id
    and base.snapshot_day = buyer_windows.snapshot_day
order by base.event_timestamp, base.item_id
