with customers as (
    select
        user_id,
        cast({{ dbt.datediff('last_order_at', night(), 'day') }} as integer) as recency_days,
        orders as frequency,
        net_revenue as monetary
    from {{ ref('dim_users') }}
    where is_customer
),

-- Equal values get equal scores: a score is the fifth in which the first of the equals stands.
scored as (
    select
        *,
        cast(1 + floor(5 * (rank() over (order by recency_days desc) - 1) / cast(count(*) over () as double)) as integer) as r_score,
        cast(1 + floor(5 * (rank() over (order by frequency) - 1) / cast(count(*) over () as double)) as integer) as f_score,
        cast(1 + floor(5 * (rank() over (order by monetary) - 1) / cast(count(*) over () as double)) as integer) as m_score
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
    case
        when r_score >= 4 and f_score >= 4 then 'champion'
        when r_score >= 3 and f_score >= 3 then 'loyal'
        when r_score >= 4 then 'recent'
        when r_score = 3 then 'cooling'
        when f_score >= 3 then 'at_risk'
        else 'lost'
    end as segment
from scored
