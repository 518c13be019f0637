{#- Built whole, but from counts of users by day: a late event can change any cohort. -#}
{%- set grains = [
    {'name': 'day', 'days': 1, 'last_period': 90},
    {'name': 'week', 'days': 7, 'last_period': 52},
    {'name': 'month', 'days': 30, 'last_period': 24},
] -%}

{#- A user counts once in a period: on the first active day of it. -#}
{%- set calendar = {'day': 'users', 'week': 'first_in_week', 'month': 'first_in_month'} -%}
{%- set own = {'day': 'users', 'week': 'first_in_own_week', 'month': 'first_in_own_month'} %}

with active as (
    select * from {{ ref('int_retention_days') }}
),

lives as (
    select first_active_day as first_date, last_active_day as last_date, count(*) as users
    from {{ ref('int_user_history') }}
    where event_timestamp = {{ end_of(given('night')) }} and first_active_day is not null
    group by first_active_day, last_active_day
),

entrants as (
    {%- for grain in grains %}
    select
        '{{ grain.name }}' as cohort_grain,
        cast({{ dbt.date_trunc(grain.name, 'first_date') }} as date) as cohort,
        first_date,
        users
    from active
    where activity_date = first_date
    {{ 'union all' if not loop.last }}
    {%- endfor %}
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
    {%- for grain in grains %}
    {%- set cohort = 'cast(' ~ dbt.date_trunc(grain.name, 'first_date') ~ ' as date)' %}
    {%- set unit = 'cast(' ~ dbt.date_trunc(grain.name, 'activity_date') ~ ' as date)' %}
    select
        '{{ grain.name }}' as cohort_grain,
        {{ cohort }} as cohort,
        {{ dbt.datediff(cohort, unit, grain.name) }} as period,
        sum({{ calendar[grain.name] }}) as returned
    from active
    group by cohort, period
    {{ 'union all' if not loop.last }}
    {%- endfor %}
),

last_periods as (
    {%- for grain in grains %}
    {%- set cohort = 'cast(' ~ dbt.date_trunc(grain.name, 'first_date') ~ ' as date)' %}
    {%- set unit = 'cast(' ~ dbt.date_trunc(grain.name, 'last_date') ~ ' as date)' %}
    select
        '{{ grain.name }}' as cohort_grain,
        {{ cohort }} as cohort,
        least({{ grain.last_period }}, {{ dbt.datediff(cohort, unit, grain.name) }}) as last_period,
        sum(users) as users
    from lives
    group by cohort, last_period
    {{ 'union all' if not loop.last }}
    {%- endfor %}
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
    {%- set period = 'cast(floor(' ~ dbt.datediff('first_date', 'activity_date', 'day') ~ ' / ' ~ grain.days ~ '.0) as integer)' %}
    select
        '{{ grain.name }}' as cohort_grain,
        cast({{ dbt.date_trunc(grain.name, 'first_date') }} as date) as cohort,
        {{ period }} as period,
        sum({{ own[grain.name] }}) as returned
    from active
    -- a user whose period is still running counts neither above nor below the line
    where {{ dbt.dateadd('day', '(' ~ period ~ ' + 1) * ' ~ grain.days, 'first_date') }} <= {{ dbt.dateadd('day', 1, night()) }}
    group by cohort, period
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
