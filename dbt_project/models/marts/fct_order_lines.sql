{#- Incremental by day: a line never changes after its day is over. -#}
{{ config(
    materialized='incremental',
    incremental_strategy='replace_days',
    on_schema_change='fail',
    meta={'replace_by': 'line_date'},
) }}

with events as (
    select * from {{ ref('fct_events') }}
    where event_type in ('purchase', 'refund')
        and {{ in_window('event_date') }}
)

select
    event_id as line_id,
    order_id,
    user_id,
    item_id,
    event_ts as line_ts,
    event_date as line_date,
    event_type as line_type,
    quantity,
    unit_price,
    cast(
        quantity * unit_price * case when event_type = 'refund' then -1 else 1 end
        as decimal(18, 4)
    ) as revenue
from events
order by line_date
