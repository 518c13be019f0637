{#- The days on which features are kept, as a list: the Sundays of the last `feature_weeks` weeks up to the
    night, every fourth Sunday of the `feature_weeks_thinned` before them, and the night. Always the same
    fourth ones, so that a snapshot is kept or dropped as it grows old and none has to be built late.

    A snapshot of day D knows exactly what happened before D + 1 00:00, its event_timestamp. A night
    drops the snapshots that reprocessing touches, those that have grown too old and those of earlier
    nights that are no Sunday, then builds every snapshot that is missing; so building day by day
    equals a full refresh. -#}

{%- macro snapshot_days() -%}
    {%- set one_day = modules.datetime.timedelta(days=1) -%}
    {%- set night = modules.datetime.date.fromisoformat(given('night') | string) -%}
    {%- set start = modules.datetime.date.fromisoformat(var('start') | string) -%}
    {%- set days = [] -%}
    {%- set weekly = 7 * var('feature_weeks') -%}
    {%- for back in range(weekly + 7 * var('feature_weeks_thinned'), 0, -1) -%}
        {%- set day = night - back * one_day -%}
        {%- set is_kept = day.isoweekday() == 7 and (back <= weekly or day.toordinal() % 28 == 0) -%}
        {%- if is_kept and day >= start -%}{%- do days.append(day.isoformat()) -%}{%- endif -%}
    {%- endfor -%}
    {%- do days.append(night.isoformat()) -%}
    {{ return(days) }}
{%- endmacro -%}

{#- The event_timestamp of a snapshot day (ISO), as a TIMESTAMP. -#}
{%- macro end_of(day) -%}
    cast('{{ modules.datetime.date.fromisoformat(day) + modules.datetime.timedelta(days=1) }}' as timestamp)
{%- endmacro -%}

{%- macro _ends_of(days) -%}
    {%- for day in days -%}{{ end_of(day) }}{{ ', ' if not loop.last }}{%- endfor -%}
{%- endmacro -%}

{#- The snapshot days that this run has to build, as a list; `changed` is a SELECT of event_timestamps
    that are out of date for a reason of their own. It asks the table, so that what follows names days
    that the storage can skip by. -#}
{%- macro missing_days(changed=none) -%}
    {%- set days = snapshot_days() -%}
    {%- if not is_incremental() -%}{{ return(days) }}{%- endif -%}
    {%- set kept -%}
        select distinct cast(event_timestamp as date) as ended from {{ this }}
        where event_timestamp <= cast('{{ given("reprocess_from") }}' as timestamp)
        {%- if changed %} and event_timestamp not in ({{ changed }}){% endif %}
    {%- endset -%}
    {%- set ends = run_query(kept).columns[0].values() | map('string') | list -%}
    {%- set missing = [] -%}
    {%- for day in days -%}
        {%- set end = modules.datetime.date.fromisoformat(day) + modules.datetime.timedelta(days=1) -%}
        {%- if end.isoformat() not in ends -%}{%- do missing.append(day) -%}{%- endif -%}
    {%- endfor -%}
    {{ return(missing) }}
{%- endmacro -%}

{#- Run before an incremental build: deletes the snapshots that are to be built again or are too old. -#}
{%- macro drop_stale_snapshots(changed=none) -%}
    {%- if is_incremental() -%}
        delete from {{ this }}
        where event_timestamp not in ({{ _ends_of(snapshot_days()) }})
            or event_timestamp in ({{ _ends_of(missing_days(changed)) }})
    {%- endif -%}
{%- endmacro -%}

{#- A SELECT of the snapshots in which an item is not what the catalogue now says it was. A version may
    arrive late, or change what was said of a day long past. -#}
{%- macro changed_item_snapshots() -%}
    {%- set said = "select item_id, event_timestamp, " ~ days_since('first_day', 'event_timestamp')
        ~ " as days_since_first_seen, cast(price as double) as price from " ~ ref('int_item_snapshots') -%}
    {%- set kept = "select item_id, event_timestamp, days_since_first_seen, price from " ~ this -%}
    select event_timestamp from ({{ said }} except {{ kept }}) as new_rows
    union
    select event_timestamp from ({{ kept }} except {{ said }}) as old_rows
{%- endmacro -%}

{#- The last snapshot day before `day` (ISO), or nothing where there is none. -#}
{%- macro snapshot_before(day) -%}
    {{ return(snapshot_days() | select('lt', day) | list | last | default(none)) }}
{%- endmacro -%}

{#- The snapshot day (DATE) at which a day first counts, of those from `first` (ISO) on. -#}
{%- macro counts_from(day, first) -%}
    greatest(cast('{{ first }}' as date), least({{ night() }}, cast({{ dbt.dateadd('day', 6, dbt.date_trunc('week', day)) }} as date)))
{%- endmacro -%}

{#- A SELECT of the snapshots of `days`: snapshot_day (DATE), event_timestamp (TIMESTAMP), and for every
    window of W days the day before it, before_<W>d (DATE): a day is inside when it is later. -#}
{%- macro snapshots_of(days, windows=[]) -%}
    select snapshot_day, event_timestamp
        {%- for window in windows -%}
        , cast({{ dbt.dateadd('day', -window, 'snapshot_day') }} as date) as before_{{ window }}d
        {%- endfor %}
    from (
        {%- for day in days %}
        select cast('{{ day }}' as date) as snapshot_day, {{ end_of(day) }} as event_timestamp
        {{- ' union all' if not loop.last }}
        {%- endfor %}
    ) as every_snapshot
{%- endmacro -%}

{#- True of the days (DATE) that some window of at most `most` days of the snapshots of `days` reaches. -#}
{%- macro within(most, day, days) -%}
    {{ day }} > cast('{{ modules.datetime.date.fromisoformat(days[0]) - modules.datetime.timedelta(days=most) }}' as date)
    and {{ day }} <= cast('{{ days[-1] }}' as date)
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
