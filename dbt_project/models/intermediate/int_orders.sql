{#- Incremental: a line of tonight may belong to an order of any age, and an order that becomes or
    ceases to be valid moves the numbers of those after it. So what is built again are the orders with a
    line in the window, now or at the last build, and every other order of the same users. -#}
{{ config(
    materialized='incremental',
    incremental_strategy='replace_days',
    unique_key='order_id',
    on_schema_change='fail',
    meta={'replace_by': 'last_line_date'},
) }}

{%- set net = ['order_id', 'user_id', 'ordered_at', 'order_date', 'last_line_date', 'lines', 'units',
               'gross_revenue', 'refunded_revenue', 'net_revenue'] | join(', ') %}

with lines as (
    select * from {{ ref('fct_order_lines') }}
    where order_id is not null
    {% if is_incremental() %}
        and order_id in (
            select order_id from {{ ref('fct_order_lines') }} where line_date >= {{ window_start() }}
            union all
            select order_id from {{ this }} where last_line_date >= {{ window_start() }}
        )
    {% endif %}
),

summed as (
    select
        order_id,
        min(case when line_type = 'purchase' then user_id end) as user_id,
        min(case when line_type = 'purchase' then line_ts end) as ordered_at,
        max(line_date) as last_line_date,
        count(case when line_type = 'purchase' then 1 end) as lines,
        cast(sum(case when line_type = 'purchase' then quantity end) as bigint) as units,
        sum(case when line_type = 'purchase' then revenue end) as gross_revenue,
        coalesce(-sum(case when line_type = 'refund' then revenue end), 0) as refunded_revenue
    from lines
    group by order_id
),

netted as (
    select
        *,
        cast(ordered_at as date) as order_date,
        gross_revenue - refunded_revenue as net_revenue
    from summed
    where lines > 0
),

{% if is_incremental() -%}
touched_users as (
    select user_id from netted
    union
    select user_id from {{ this }}
    where last_line_date >= {{ window_start() }} or order_id in (select order_id from netted)
),

orders as (
    select {{ net }} from netted
    union all
    select {{ net }} from {{ this }}
    where user_id in (select user_id from touched_users)
        and last_line_date < {{ window_start() }}
        and order_id not in (select order_id from netted)
),
{%- else -%}
orders as (
    select {{ net }} from netted
),
{%- endif %}

numbered as (
    select
        order_id,
        row_number() over in_order as order_number,
        {{ dbt.datediff('lag(order_date) over in_order', 'order_date', 'day') }} as days_since_previous
    from orders
    where net_revenue > 0 and user_id is not null
    window in_order as (partition by user_id order by ordered_at, order_id)
)

select
    orders.*,
    orders.net_revenue > 0 as is_valid,
    numbered.order_number,
    numbered.days_since_previous
from orders
left join numbered on orders.order_id = numbered.order_id
