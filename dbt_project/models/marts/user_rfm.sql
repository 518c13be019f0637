with customers as (
    select
        user_id,
        cast({{ dbt.datediff('last_order_at', night(), 'day') }} as integer) as recency_days,
        orders as frequency,
        net_revenue as monetary
    from {{ ref('dim_users') }}
    where is_customer
),

scored as (
    select
        *,
        {{ fifth('recency_days desc') }} as r_score,
        {{ fifth('frequency') }} as f_score,
        {{ fifth('monetary') }} as m_score
    from customers
)

select
    user_id,
    recency_days,
    frequency,
    monetary,
    r_score,
    f_score,
    m_score,
    {{ rfm_segment() }} as segment
from scored
