{#- Rebuilt whole: a refund tonight changes an order of any age and the number of those after it. -#}
with purchases as (
    select
        order_id,
        min(user_id) as user_id,
        min(line_ts) as ordered_at,
        count(*) as lines,
        cast(sum(quantity) as bigint) as units,
        sum(revenue) as gross_revenue
    from {{ ref('fct_order_lines') }}
    where line_type = 'purchase'
    group by order_id
),

refunds as (
    select order_id, -sum(revenue) as refunded_revenue
    from {{ ref('fct_order_lines') }}
    where line_type = 'refund' and order_id is not null
    group by order_id
),

netted as (
    select
        purchases.*,
        cast(purchases.ordered_at as date) as order_date,
        coalesce(refunds.refunded_revenue, 0) as refunded_revenue,
        purchases.gross_revenue - coalesce(refunds.refunded_revenue, 0) as net_revenue
    from purchases
    left join refunds on purchases.order_id = refunds.order_id
),

followed as (
    select order_id, user_id, ordered_at, order_date
    from netted
    where net_revenue > 0 and user_id is not null
),

numbered as (
    select
        order_id,
        row_number() over in_order as order_number,
        {{ dbt.datediff('lag(order_date) over in_order', 'order_date', 'day') }} as days_since_previous
    from followed
    window in_order as (partition by user_id order by ordered_at, order_id)
)

select
    netted.order_id,
    netted.user_id,
    netted.ordered_at,
    netted.order_date,
    netted.lines,
    netted.units,
    netted.gross_revenue,
    netted.refunded_revenue,
    netted.net_revenue,
    netted.net_revenue > 0 as is_valid,
    numbered.order_number,
    numbered.days_since_previous
from netted
left join numbered on netted.order_id = numbered.order_id
