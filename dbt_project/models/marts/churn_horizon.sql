with gaps as (
    select days_since_previous
    from {{ ref('fct_orders') }}
    where days_since_previous is not null
),

quantiles as (
    select
        cast({{ quantile('days_since_previous', 0.5) }} as bigint) as half,
        cast({{ quantile('days_since_previous', 0.75) }} as bigint) as three_quarters,
        cast({{ quantile('days_since_previous', var('churn_gap_quantile')) }} as bigint) as horizon_days,
        count(*) as gaps
    from gaps
)

select
    cast({{ var('churn_gap_quantile') }} as double) as gap_quantile,
    least(half, horizon_days) as new_days,
    least(three_quarters, horizon_days) as active_days,
    horizon_days,
    gaps
from quantiles
