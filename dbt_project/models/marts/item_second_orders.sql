{#- Built whole, as repurchase_rates is: tonight the 90 days of another day's first buyers are over. -#}
{%- set window = 90 %}

with firsts as (
    select user_id, order_id
    from {{ ref('fct_orders') }}
    where order_number = 1 and {{ dbt.datediff('order_date', night(), 'day') }} >= {{ window }}
),

seconds as (
    select user_id
    from {{ ref('fct_orders') }}
    where order_number = 2 and days_since_previous <= {{ window }}
),

buyers as (
    select firsts.user_id, firsts.order_id, case when seconds.user_id is not null then 1 else 0 end as came_back
    from firsts
    left join seconds on firsts.user_id = seconds.user_id
),

shop as (
    select sum(came_back) / cast(count(*) as double) as shop_rate
    from buyers
),

bought as (
    select distinct lines.item_id, buyers.user_id, buyers.came_back
    from {{ ref('fct_order_lines') }} as lines
    inner join buyers on lines.order_id = buyers.order_id
    where lines.line_type = 'purchase' and lines.item_id is not null
),

items as (
    select item_id, count(*) as first_buyers, cast(sum(came_back) as bigint) as ordered_again
    from bought
    group by item_id
),

rated as (
    select
        item_id,
        first_buyers,
        ordered_again,
        ordered_again / cast(first_buyers as double) as rate,
        {{ wilson('ordered_again', 'first_buyers') }}
    from items
)

select
    rated.*,
    shop.shop_rate,
    rated.rate / nullif(shop.shop_rate, 0) as lift,
    rated.low / nullif(shop.shop_rate, 0) as lift_low,
    rated.high / nullif(shop.shop_rate, 0) as lift_high
from rated
cross join shop
