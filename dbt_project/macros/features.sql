{#- The days on which features are kept: every Sunday from `start` up to the night, and the night.

    A snapshot of day D knows exactly what happened before D + 1 00:00, its event_timestamp. A night
    drops the snapshots that reprocessing touches and those of earlier nights that are no Sunday,
    then builds every snapshot that is missing; so building day by day equals a full refresh. -#}

{%- macro snapshot_days() -%}
    {%- set one_day = modules.datetime.timedelta(days=1) -%}
    {%- set night = modules.datetime.date.fromisoformat(var('night') | string) -%}
    {%- set start = modules.datetime.date.fromisoformat(var('start') | string) -%}
    {%- set days = [] -%}
    {%- for offset in range((night - start).days) -%}
        {%- set day = start + offset * one_day -%}
        {%- if day.isoweekday() == 7 -%}{%- do days.append(day.isoformat()) -%}{%- endif -%}
    {%- endfor -%}
    {%- do days.append(night.isoformat()) -%}
    {{ return(days) }}
{%- endmacro -%}

{#- Run before an incremental build: deletes the snapshots that are to be built again. -#}
{%- macro drop_stale_snapshots() -%}
    {%- if is_incremental() -%}
        delete from {{ this }}
        where event_timestamp > cast('{{ var("reprocess_from") }}' as timestamp)
            or event_timestamp not in (
                {%- for day in snapshot_days() %}
                {{ dbt.dateadd('day', 1, "cast('" ~ day ~ "' as timestamp)") }}{{ ',' if not loop.last }}
                {%- endfor %}
            )
    {%- endif -%}
{%- endmacro -%}

{#- A SELECT of the missing snapshots: snapshot_day (DATE), event_timestamp (TIMESTAMP), and for every
    window of W days the day before it, before_<W>d (DATE): a day is inside when it is later. -#}
{%- macro missing_snapshots(windows) -%}
    select snapshot_day, event_timestamp
        {%- for window in windows -%}
        , cast({{ dbt.dateadd('day', -window, 'snapshot_day') }} as date) as before_{{ window }}d
        {%- endfor %}
    from (
        {%- for day in snapshot_days() %}
        select
            cast('{{ day }}' as date) as snapshot_day,
            cast({{ dbt.dateadd('day', 1, "cast('" ~ day ~ "' as timestamp)") }} as timestamp) as event_timestamp
        {{- ' union all' if not loop.last }}
        {%- endfor %}
    ) as every_snapshot
    {%- if is_incremental() %}
    where event_timestamp not in (select event_timestamp from {{ this }})
    {%- endif %}
{%- endmacro -%}

{#- A ratio of two exact sums as DOUBLE; NULL when there is nothing to divide by. -#}
{%- macro ratio(numerator, denominator) -%}
    cast({{ numerator }} as double) / nullif({{ denominator }}, 0)
{%- endmacro -%}

{#- Whole days from a day to the moment of a snapshot: at least 1, as that day is over. -#}
{%- macro days_since(day, moment) -%}
    {{ dbt.datediff(day, moment, 'day') }}
{%- endmacro -%}

{#- A point on a circle (the clock, the week) in whole millionths, whose sum does not depend on order. -#}
{%- macro millionths(function, position, period) -%}
    cast(round(1000000 * {{ function }}(2 * pi() * {{ position }} / {{ period }})) as bigint)
{%- endmacro -%}
