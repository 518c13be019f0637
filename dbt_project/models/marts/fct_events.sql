{#- Incremental by day. A session knows no midnight, so the days built again start one earlier than the
    first changed one, and a session open at that midnight is carried on from what is already here.
    The catalogue may change for events of any age: the hook sets `is_known_item` right for those. -#}
{{ config(
    materialized='incremental',
    incremental_strategy='replace_days',
    on_schema_change='fail',
    meta={'replace_by': 'event_date'},
    post_hook="{{ refresh_known_items() }}",
) }}
{%- do ref('int_known_items') -%}  {#- read by the hook -#}

{%- set event_columns = '
        event_id, event_ts, event_date, user_id, visitor_key, event_type, is_activity, item_id, order_id,
        quantity, unit_price, currency, dwell_ms, query, channel, country, properties' -%}

with events as (
    select {{ event_columns }}, cast(null as timestamp) as open_session_at
    from {{ ref('stg_events') }}
    where {{ in_window('event_date') }}

    {% if is_incremental() %}
    union all
    -- the last half hour before the window: what may still be open at its first midnight
    select {{ event_columns }}, session_started_at as open_session_at
    from {{ this }}
    where is_activity
        and event_date < {{ window_start() }}
        and event_ts > {{ dbt.dateadd('second', -1800, "cast(" ~ window_start() ~ " as timestamp)") }}
    {% endif %}
),

catalogue as (
    select item_id from {{ ref('int_catalogue') }}
),

neighbours as (
    select
        *,
        lag(event_ts) over in_order as previous_ts,
        lead(event_ts) over in_order as next_ts
    from events
    window in_order as (partition by visitor_key, is_activity order by event_ts, event_id)
),

session_starts as (
    select
        *,
        -- a gap of exactly 1800 s is already a new session
        case
            when open_session_at is not null then open_session_at
            when previous_ts is null then event_ts
            when event_ts >= {{ dbt.dateadd('second', 1800, 'previous_ts') }} then event_ts
        end as session_start,
        case
            when next_ts < {{ dbt.dateadd('second', 1800, 'event_ts') }}
                then {{ dbt.datediff('event_ts', 'next_ts', 'millisecond') }}
        end as ms_to_next
    from neighbours
),

sessionised as (
    select
        *,
        max(session_start) over (
            partition by visitor_key, is_activity
            order by event_ts, event_id
            rows between unbounded preceding and current row
        ) as session_started_at
    from session_starts
)

select
    event_id,
    event_ts,
    event_date,
    user_id,
    visitor_key,
    case
        when is_activity
            then {{ dbt.hash("concat(visitor_key, '@', cast(session_started_at as " ~ dbt.type_string() ~ "))") }}
    end as session_key,
    case when is_activity then session_started_at end as session_started_at,
    event_type,
    is_activity,
    sessionised.item_id,
    catalogue.item_id is not null as is_known_item,
    order_id,
    quantity,
    unit_price,
    currency,
    coalesce(dwell_ms, case when is_activity then ms_to_next end) as dwell_ms,
    query,
    channel,
    country,
    properties
from sessionised
left join catalogue on sessionised.item_id = catalogue.item_id
where open_session_at is null
-- laid out by day, so that the next nights read and replace the last days only
order by event_date
