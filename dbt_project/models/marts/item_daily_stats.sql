{#- Incremental by day: an item's day is made of that day's events alone. -#}
{{ config(
    materialized='incremental',
    incremental_strategy='replace_days',
    on_schema_change='fail',
    meta={'replace_by': 'stat_date'},
) }}

with events as (
    select *, quantity * unit_price as amount
    from {{ ref('fct_events') }}
    where item_id is not null
        and {{ in_window('event_date') }}
)

select
    item_id,
    event_date as stat_date,
    min(event_ts) as first_event_at,
    min(case when event_type = 'purchase' then event_ts end) as first_sold_at,
    count(case when event_type = 'view' then 1 end) as views,
    count(case when event_type = 'click' then 1 end) as clicks,
    count(case when event_type = 'cart_add' then 1 end) as cart_adds,
    count(case when event_type = 'exposure' then 1 end) as exposures,
    count(case when event_type = 'purchase' then 1 end) as purchases,
    cast(coalesce(sum(case when event_type = 'purchase' then quantity end), 0) as bigint) as units,
    cast(coalesce(sum(case when event_type = 'refund' then quantity end), 0) as bigint) as refunded_units,
    cast(
        coalesce(sum(case when event_type = 'purchase' then amount when event_type = 'refund' then -amount end), 0)
        as decimal(38, 4)
    ) as revenue,
    count(distinct case when event_type = 'purchase' then visitor_key end) as buyers,
    count(distinct case when event_type = 'view' then visitor_key end) as viewers
from events
group by item_id, event_date
order by stat_date
