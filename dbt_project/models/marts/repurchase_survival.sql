{#- Built whole, as repurchase_rates is: a refund can undo a first order, and every night moves the end of
    what is known of those who have not come back. -#}
with customers as (
    select
        min(order_date) as first_date,
        max(case when order_number = 2 then days_since_previous end) as days_to_second
    from {{ ref('fct_orders') }}
    where order_number <= 2
    group by user_id
),

ended as (
    select
        coalesce(days_to_second, {{ dbt.datediff('first_date', night(), 'day') }}) as days,
        count(days_to_second) as ordered_again,
        count(case when days_to_second is null then 1 end) as censored
    from customers
    group by days
)

select
    cast(days as integer) as days,
    cast(sum(ordered_again + censored) over (order by days desc) as bigint) as at_risk,
    ordered_again,
    censored
from ended
order by days
