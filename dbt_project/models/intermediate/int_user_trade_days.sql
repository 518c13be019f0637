{#- Incremental by day. An order, and an item of it, counts on the day of its first line: what later lines
    add to it counts on their own day. So no day knows its future. -#}
{{ config(
    materialized='incremental',
    incremental_strategy='replace_days',
    on_schema_change='fail',
    meta={'replace_by': 'trade_date'},
) }}

with lines as (
    select user_id, order_id, item_id, line_date
    from {{ ref('fct_order_lines') }}
    where user_id is not null and line_type = 'purchase'
    {% if is_incremental() %}
        and order_id in (select order_id from {{ ref('fct_order_lines') }} where line_date >= {{ window_start() }})
    {% endif %}
),

order_items as (
    select user_id, order_id, item_id, min(line_date) as trade_date
    from lines
    group by user_id, order_id, item_id
),

orders as (
    select user_id, order_id, min(trade_date) as trade_date
    from order_items
    group by user_id, order_id
),

days as (
    select user_id, trade_date, cast(sum(orders) as bigint) as orders, cast(sum(items) as bigint) as items
    from (
        select user_id, trade_date, 1 as orders, 0 as items from orders
        union all
        select user_id, trade_date, 0 as orders, case when item_id is not null then 1 else 0 end as items
        from order_items
    ) as placed
    where {{ in_window('trade_date') }}
    group by user_id, trade_date
),

order_days as (
    select user_id, trade_date from days where orders > 0
    {% if is_incremental() %}
    union all
    select user_id, max(trade_date) as trade_date
    from {{ this }}
    where orders > 0 and trade_date < {{ window_start() }} and user_id in (select user_id from days)
    group by user_id
    {% endif %}
),

gaps as (
    select
        user_id,
        trade_date,
        {{ dbt.datediff('lag(trade_date) over (partition by user_id order by trade_date)', 'trade_date', 'day') }}
            as days_since_previous
    from order_days
)

select days.user_id, days.trade_date, days.orders, days.items, gaps.days_since_previous
from days
left join gaps on days.user_id = gaps.user_id and days.trade_date = gaps.trade_date
order by days.trade_date
