{#- Built whole, as repurchase_rates is: tonight the 90 days of another day's first buyers are over. -#}
{%- set window = 90 %}

with firsts as (
    select user_id, order_id, cast({{ dbt.date_trunc('month', 'order_date') }} as date) as cohort
    from {{ ref('fct_orders') }}
    where order_number = 1 and {{ dbt.datediff('order_date', night(), 'day') }} >= {{ window }}
),

seconds as (
    select user_id
    from {{ ref('fct_orders') }}
    where order_number = 2 and days_since_previous <= {{ window }}
),

buyers as (
    select
        firsts.user_id,
        firsts.order_id,
        firsts.cohort,
        case when seconds.user_id is not null then 1 else 0 end as came_back
    from firsts
    left join seconds on firsts.user_id = seconds.user_id
),

bought as (
    select distinct lines.item_id, buyers.user_id, buyers.cohort, buyers.came_back
    from {{ ref('fct_order_lines') }} as lines
    inner join buyers on lines.order_id = buyers.order_id
    where lines.line_type = 'purchase' and lines.item_id is not null
),

-- months differ, and so do the items sold in them: an item is held against the months of its own buyers
months as (
    select cohort, sum(came_back) / cast(count(*) as double) as shop_rate
    from buyers
    group by cohort
),

by_month as (
    select item_id, cohort, count(*) as first_buyers, sum(came_back) as ordered_again
    from bought
    group by item_id, cohort
),

items as (
    select
        by_month.item_id,
        cast(sum(by_month.first_buyers) as bigint) as first_buyers,
        cast(sum(by_month.ordered_again) as bigint) as ordered_again,
        -- exact, so that the sum has no order
        sum(cast(by_month.first_buyers * months.shop_rate as decimal(18, 9))) as expected
    from by_month
    inner join months on by_month.cohort = months.cohort
    group by by_month.item_id
),

rated as (
    select
        item_id,
        first_buyers,
        ordered_again,
        ordered_again / cast(first_buyers as double) as rate,
        {{ wilson('ordered_again', 'first_buyers') }},
        cast(expected as double) / first_buyers as shop_rate
    from items
)

select
    *,
    rate / nullif(shop_rate, 0) as lift,
    low / nullif(shop_rate, 0) as lift_low,
    high / nullif(shop_rate, 0) as lift_high
from rated
