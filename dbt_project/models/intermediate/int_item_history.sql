{#- What is known of an item for ever, kept and carried on as in int_user_history. -#}
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

buying as (
    select
        item_id,
        {{ counts_from('buying_date', missing[0]) }} as counts_from,
        count(case when nth_day = 1 then 1 end) as buyers,
        count(case when nth_day = 2 then 1 end) as repeat_buyers
    from {{ ref('int_buying_days') }}
    where buying_date <= {{ night() }}
        {%- if base %} and buying_date > cast('{{ base }}' as date){% endif %}
    group by item_id, counts_from
),

selling as (
    select
        item_id,
        {{ counts_from('stat_date', missing[0]) }} as counts_from,
        min(stat_date) as first_day,
        min(first_event_at) as first_event_at,
        min(first_sold_at) as first_sold_at,
        sum(purchases) as purchases,
        sum(units) as units,
        sum(refunded_units) as refunded_units
    from {{ ref('item_daily_stats') }}
    where stat_date <= {{ night() }}
        {%- if base %} and stat_date > cast('{{ base }}' as date){% endif %}
    group by item_id, counts_from
),

history as (
    select selling.*, coalesce(buying.buyers, 0) as buyers, coalesce(buying.repeat_buyers, 0) as repeat_buyers
    from selling
    left join buying on selling.item_id = buying.item_id and selling.counts_from = buying.counts_from
    {%- if base %}
    union all
    select
        item_id, cast('{{ base }}' as date) as counts_from, first_day, first_event_at, first_sold_at,
        purchases, units, refunded_units, buyers, repeat_buyers
    from {{ this }}
    where event_timestamp = {{ end_of(base) }}
    {%- endif %}
)

select
    history.item_id,
    snapshots.event_timestamp,
    min(first_day) as first_day,
    min(first_event_at) as first_event_at,
    min(first_sold_at) as first_sold_at,
    cast(sum(purchases) as bigint) as purchases,
    cast(sum(units) as bigint) as units,
    cast(sum(refunded_units) as bigint) as refunded_units,
    cast(sum(buyers) as bigint) as buyers,
    cast(sum(repeat_buyers) as bigint) as repeat_buyers
from history
inner join snapshots on history.counts_from <= snapshots.snapshot_day
group by history.item_id, snapshots.event_timestamp
order by snapshots.event_timestamp
