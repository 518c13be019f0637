select
    order_id,
    user_id,
    ordered_at,
    order_date,
    lines,
    units,
    gross_revenue,
    refunded_revenue,
    net_revenue,
    is_valid,
    order_number,
    days_since_previous
from {{ ref('int_orders') }}
