with gaps as (
    select days_since_previous
    from {{ ref('fct_orders') }}
    where days_since_previous is not null
)

select
    cast({{ var('churn_gap_quantile') }} as double) as gap_quantile,
    cast({{ quantile('days_since_previous', var('churn_gap_quantile')) }} as bigint) as horizon_days,
    count(*) as gaps
from gaps
