{#- Rebuilt whole from user days, not from events: a late event can change any cohort. -#}
{%- set grains = [
    {'name': 'day', 'days': 1, 'last_period': 90},
    {'name': 'week', 'days': 7, 'last_period': 52},
    {'name': 'month', 'days': 30, 'last_period': 24},
] -%}

with active_days as (
    select
        user_id,
        activity_date,
        min(activity_date) over (partition by user_id) as first_date
    from {{ ref('user_daily_activity') }}
    where events > 0
),

-- one row per grain and user's active day
placed as (
    {%- for grain in grains %}
    {%- set cohort = 'cast(' ~ dbt.date_trunc(grain.name, 'first_date') ~ ' as date)' %}
    {%- set unit = 'cast(' ~ dbt.date_trunc(grain.name, 'activity_date') ~ ' as date)' %}
    select
        '{{ grain.name }}' as cohort_grain,
        {{ cohort }} as cohort,
        user_id,
        first_date,
        activity_date,
        {{ dbt.datediff(cohort, unit, grain.name) }} as calendar_period,
        cast(floor({{ dbt.datediff('first_date', 'activity_date', 'day') }} / {{ grain.days }}.0) as integer)
            as own_period
    from active_days
    {{ 'union all' if not loop.last }}
    {%- endfor %}
),

entrants as (
    select cohort_grain, cohort, first_date, count(*) as users
    from placed
    where activity_date = first_date
    group by cohort_grain, cohort, first_date
),

-- who could have returned: users for whom the period has fully elapsed by the end of the night
periods as (
    {%- for grain in grains %}
    select
        entrants.cohort_grain,
        entrants.cohort,
        numbers.n as period,
        sum(case
            when {{ dbt.dateadd(grain.name, 'numbers.n + 1', 'entrants.cohort') }} <= {{ dbt.dateadd('day', 1, night()) }}
                then entrants.users
            else 0
        end) as calendar_eligible,
        sum(case
            when {{ dbt.dateadd('day', '(numbers.n + 1) * ' ~ grain.days, 'entrants.first_date') }} <= {{ dbt.dateadd('day', 1, night()) }}
                then entrants.users
            else 0
        end) as own_eligible
    from entrants
    cross join ({{ numbers(grain.last_period) }}) as numbers
    where entrants.cohort_grain = '{{ grain.name }}'
    group by entrants.cohort_grain, entrants.cohort, numbers.n
    {{ 'union all' if not loop.last }}
    {%- endfor %}
),

on_period as (
    select cohort_grain, cohort, calendar_period as period, count(distinct user_id) as returned
    from placed
    group by cohort_grain, cohort, calendar_period
),

last_periods as (
    select cohort_grain, cohort, last_period, count(*) as users
    from (
        select cohort_grain, cohort, user_id, max(calendar_period) as last_period
        from placed
        group by cohort_grain, cohort, user_id
    ) as users
    group by cohort_grain, cohort, last_period
),

on_period_or_later as (
    select periods.cohort_grain, periods.cohort, periods.period, sum(last_periods.users) as returned
    from periods
    inner join last_periods
        on periods.cohort_grain = last_periods.cohort_grain
        and periods.cohort = last_periods.cohort
        and periods.period <= last_periods.last_period
    group by periods.cohort_grain, periods.cohort, periods.period
),

within_own_period as (
    {%- for grain in grains %}
    select cohort_grain, cohort, own_period as period, count(distinct user_id) as returned
    from placed
    where cohort_grain = '{{ grain.name }}'
        -- a user whose period is still running counts neither above nor below the line
        and {{ dbt.dateadd('day', '(own_period + 1) * ' ~ grain.days, 'first_date') }} <= {{ dbt.dateadd('day', 1, night()) }}
    group by cohort_grain, cohort, own_period
    {{ 'union all' if not loop.last }}
    {%- endfor %}
),

kinds as (
    {%- for kind, returned, eligible in [
        ('n_day', 'on_period', 'calendar_eligible'),
        ('unbounded', 'on_period_or_later', 'calendar_eligible'),
        ('bracket', 'within_own_period', 'own_eligible'),
    ] %}
    select
        periods.cohort_grain,
        periods.cohort,
        '{{ kind }}' as kind,
        periods.period,
        cast(periods.{{ eligible }} as bigint) as eligible,
        cast(coalesce(returns.returned, 0) as bigint) as returned
    from periods
    left join {{ returned }} as returns
        on periods.cohort_grain = returns.cohort_grain
        and periods.cohort = returns.cohort
        and periods.period = returns.period
    where periods.{{ eligible }} > 0
    {{ 'union all' if not loop.last }}
    {%- endfor %}
)

select
    cohort_grain,
    cohort,
    kind,
    period,
    eligible,
    returned,
    returned / cast(eligible as double) as rate
from kinds
