{#- Built whole: a refund of tonight may take an order of any age off, and moves the numbers after it. -#}
select
    cast({{ dbt.date_trunc('month', 'order_date') }} as date) as month,
    count(order_number) as orders,
    count(case when order_number > 1 then 1 end) as returning_orders,
    count(distinct user_id) as customers,
    count(distinct case when order_number > 1 then user_id end) as returning_customers,
    coalesce(sum(case when user_id is not null then net_revenue end), 0) as net_revenue,
    coalesce(sum(case when order_number > 1 then net_revenue end), 0) as returning_net_revenue,
    cast(sum(case when order_number > 1 then net_revenue else 0 end) as double)
        / nullif(sum(case when user_id is not null then net_revenue end), 0) as share,
    coalesce(sum(case when user_id is null then net_revenue end), 0) as guest_net_revenue
from {{ ref('fct_orders') }}
where is_valid
group by month
