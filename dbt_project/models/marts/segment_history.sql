{#- Built whole: the thresholds move with every order, and a refund changes what is known of old ones. No
    day is looked at: a customer moves on the day of an order and on the day a threshold is passed. -#}
with thresholds as (
    select new_days, active_days, horizon_days from {{ ref('churn_horizon') }}
),

-- the orders of one day count as one
order_days as (
    select distinct user_id, order_date
    from {{ ref('fct_orders') }}
    where order_number is not null
),

waits as (
    select
        user_id,
        order_date,
        {{ dbt.datediff('lag(order_date) over in_order', 'order_date', 'day') }} as gap,
        lead(order_date) over in_order as next_date,
        new_days,
        active_days,
        horizon_days
    from order_days
    cross join thresholds
    window in_order as (partition by user_id order by order_date)
),

-- where the customer is on the day of an order and, until the next one, from the days of the thresholds on
life_cycle as (
    select
        user_id,
        order_date as from_night,
        next_date,
        case when gap is null then 'new' when gap > horizon_days then 'won_back' else 'active' end as segment
    from waits
    {%- for segment, threshold, before in [
        ('active', 'new_days', 'gap is null and new_days < active_days'),
        ('at_risk', 'active_days', 'active_days < horizon_days'),
        ('lapsed', 'horizon_days', 'true'),
    ] %}
    union all
    select
        user_id,
        cast({{ dbt.dateadd('day', threshold ~ ' + 1', 'order_date') }} as date) as from_night,
        next_date,
        '{{ segment }}' as segment
    from waits
    where {{ before }}
    {%- endfor %}
),

-- what every snapshot adds to what is known of a customer
steps as (
    select
        user_id,
        least(cast({{ dbt.last_day('order_date', 'month') }} as date), {{ night() }}) as counts_from,
        max(order_date) as last_order_date,
        count(*) as orders,
        cast(0 as decimal(38,4)) as revenue
    from {{ ref('fct_orders') }}
    where order_number is not null
    group by user_id, counts_from
    union all
    select
        user_id,
        least(cast({{ dbt.last_day('line_date', 'month') }} as date), {{ night() }}) as counts_from,
        cast(null as date) as last_order_date,
        0 as orders,
        sum(revenue) as revenue
    from {{ ref('fct_order_lines') }}
    where user_id in (select user_id from order_days)
    group by user_id, counts_from
),

known as (
    select
        user_id,
        counts_from,
        lead(counts_from) over in_order as counts_until,
        max(max(last_order_date)) over in_order as last_order_date,
        sum(sum(orders)) over in_order as orders,
        sum(sum(revenue)) over in_order as revenue
    from steps
    group by user_id, counts_from
    window in_order as (partition by user_id order by counts_from)
),

snapshots as (
    {%- for day in month_ends() %}
    select cast('{{ day }}' as date) as snapshot_day
    {{- ' union all' if not loop.last }}
    {%- endfor %}
),

scored as (
    select
        known.user_id,
        snapshots.snapshot_day,
        {{ fifth('last_order_date', within='snapshot_day') }} as r_score,
        {{ fifth('orders', within='snapshot_day') }} as f_score,
        {{ fifth('revenue', within='snapshot_day') }} as m_score
    from known
    inner join snapshots
        on snapshots.snapshot_day >= known.counts_from
        and snapshots.snapshot_day < coalesce(known.counts_until, cast('9999-12-31' as date))
    where known.orders > 0
),

places as (
    select user_id, 'life_cycle' as kind, from_night, segment
    from life_cycle
    where from_night <= {{ night() }} and (next_date is null or from_night < next_date)
    union all
    select user_id, 'rfm' as kind, snapshot_day as from_night, {{ rfm_segment() }} as segment
    from scored
    union all
    select user_id, 'value_tier' as kind, snapshot_day as from_night, {{ value_tier() }} as segment
    from scored
),

moves as (
    select *, lag(segment) over (partition by user_id, kind order by from_night) as previous
    from places
)

select
    user_id,
    kind,
    segment,
    from_night,
    cast({{ dbt.dateadd('day', -1, 'lead(from_night) over (partition by user_id, kind order by from_night)') }} as date) as to_night
from moves
where previous is null or previous <> segment
