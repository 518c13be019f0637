with orders as (
    select
        user_id,
        min(case when order_number = 1 then order_date end) as first_date,
        min(case when order_number = 2 then order_date end) as second_date
    from {{ ref('fct_orders') }}
    where order_number <= 2
    group by user_id
),

windows as (
    {%- for window in var('repurchase_windows') %}
    select
        cast({{ dbt.date_trunc('month', 'first_date') }} as date) as cohort,
        cast({{ window }} as integer) as window_days,
        case when {{ dbt.datediff('first_date', 'second_date', 'day') }} <= {{ window }} then 1 else 0 end as is_repurchase
    from orders
    -- day W after the first order's is over
    where {{ dbt.datediff('first_date', night(), 'day') }} >= {{ window }}
    {{ 'union all' if not loop.last }}
    {%- endfor %}
)

select
    cohort,
    window_days,
    count(*) as eligible,
    cast(sum(is_repurchase) as bigint) as repurchased,
    sum(is_repurchase) / cast(count(*) as double) as rate
from windows
group by cohort, window_days
