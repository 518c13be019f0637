{#- Built whole from users' days with money on them: a first order undone moves its customer. -#}
{%- set last_month = 24 %}

with firsts as (
    select
        user_id,
        order_date as first_date,
        cast({{ dbt.date_trunc('month', 'order_date') }} as date) as cohort
    from {{ ref('fct_orders') }}
    where order_number = 1
),

cohorts as (
    select cohort, count(*) as customers, max(first_date) as last_first_date
    from firsts
    group by cohort
),

-- what a customer paid or got back before the first valid order counts in the first month
money as (
    select
        firsts.cohort,
        greatest(1, cast(floor({{ dbt.datediff('firsts.first_date', 'days.activity_date', 'day') }} / 30.0) as integer) + 1) as month,
        sum(days.net_revenue) as net_revenue
    from {{ ref('user_daily_activity') }} as days
    inner join firsts on days.user_id = firsts.user_id
    where days.net_revenue <> 0
    group by firsts.cohort, month
),

elapsed as (
    select cohorts.cohort, cohorts.customers, numbers.n + 1 as months
    from cohorts
    cross join ({{ numbers(last_month - 1) }}) as numbers
    where {{ dbt.dateadd('day', '30 * (numbers.n + 1)', 'cohorts.last_first_date') }} <= {{ dbt.dateadd('day', 1, night()) }}
)

select
    elapsed.cohort,
    cast(elapsed.months as integer) as months,
    elapsed.customers,
    coalesce(sum(money.net_revenue), 0) as net_revenue,
    cast(coalesce(sum(money.net_revenue), 0) as double) / elapsed.customers as value
from elapsed
left join money on elapsed.cohort = money.cohort and money.month <= elapsed.months
group by elapsed.cohort, elapsed.months, elapsed.customers
