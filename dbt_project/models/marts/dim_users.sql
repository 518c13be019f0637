with activity as (
    select
        user_id,
        -- a user known only from refunds or exposures was first seen with the first of those
        coalesce(min(case when events > 0 then first_event_at end), min(first_event_at)) as first_seen_at,
        coalesce(max(case when events > 0 then last_event_at end), max(last_event_at)) as last_seen_at,
        {{ first_by('first_channel', ['activity_date']) }} as first_channel,
        {{ last_by('last_country', ['activity_date']) }} as country,
        cast(sum(units) as bigint) as units,
        sum(gross_revenue) as gross_revenue,
        sum(refunded_revenue) as refunded_revenue,
        sum(net_revenue) as net_revenue
    from {{ ref('user_daily_activity') }}
    group by user_id
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
    activity.user_id,
    activity.first_seen_at,
    activity.last_seen_at,
    activity.first_channel,
    activity.country,
    orders.first_order_at,
    orders.last_order_at,
    coalesce(orders.orders, 0) as orders,
    activity.units,
    activity.gross_revenue,
    activity.refunded_revenue,
    activity.net_revenue,
    orders.user_id is not null as is_customer
from activity
left join orders on activity.user_id = orders.user_id
