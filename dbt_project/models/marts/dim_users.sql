with known as (
    select * from {{ ref('int_user_history') }}
    where event_timestamp = {{ end_of(given('night')) }}
),

orders as (
    select
        user_id,
        min(ordered_at) as first_order_at,
        max(ordered_at) as last_order_at,
        count(*) as orders
    from {{ ref('fct_orders') }}
    where order_number is not null
    group by user_id
)

select
    known.user_id,
    -- a user known only from refunds or exposures was first seen with the first of those
    coalesce(known.first_active_at, known.first_event_at) as first_seen_at,
    coalesce(known.last_active_at, known.last_event_at) as last_seen_at,
    known.first_channel,
    known.country,
    orders.first_order_at,
    orders.last_order_at,
    coalesce(orders.orders, 0) as orders,
    known.units,
    known.gross_revenue,
    known.refunded_revenue,
    known.net_revenue,
    orders.user_id is not null as is_customer
from known
left join orders on known.user_id = orders.user_id
