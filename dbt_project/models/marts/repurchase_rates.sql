{#- A second order says itself when the first one was, so no customer has to be looked up. -#}
with orders as (
    select
        cast({{ dbt.dateadd('day', '-coalesce(days_since_previous, 0)', 'order_date') }} as date) as first_date,
        case when order_number = 2 then days_since_previous end as days_to_second
    from {{ ref('fct_orders') }}
    where order_number <= 2
),

windows as (
    {%- for window in var('repurchase_windows') %}
    select
        cast({{ dbt.date_trunc('month', 'first_date') }} as date) as cohort,
        cast({{ window }} as integer) as window_days,
        count(case when days_to_second is null then 1 end) as eligible,
        count(case when days_to_second <= {{ window }} then 1 end) as repurchased
    from orders
    -- day W after the first order's is over
    where {{ dbt.datediff('first_date', night(), 'day') }} >= {{ window }}
    group by cohort, window_days
    {{ 'union all' if not loop.last }}
    {%- endfor %}
)

select cohort, window_days, eligible, repurchased, repurchased / cast(eligible as double) as rate
from windows
