{#- Everything here is read from facts that never change once their day is over: refunds count from
    the day they happen, a page's dwell from the day it ends. So no snapshot knows its future. -#}
{{ config(
    contract={'enforced': true},
    materialized='incremental',
    incremental_strategy='append',
    on_schema_change='fail',
    schema='features',
    pre_hook="{{ drop_stale_snapshots() }}",
) }}

{%- set windows = [7, 30, 90] -%}
{%- set counted = {
    'view': 'views', 'click': 'clicks', 'search': 'searches', 'cart_add': 'cart_adds',
    'cart_remove': 'cart_removes', 'checkout': 'checkouts', 'purchase': 'purchases',
    'refund': 'refunds', 'exposure': 'exposures',
} -%}
{%- set touched = {
    'view': 'items_viewed', 'click': 'items_clicked', 'cart_add': 'items_carted',
    'cart_remove': 'items_uncarted', 'purchase': 'items_bought',
} -%}
{%- set day_parts = {'night': 0, 'morning': 6, 'afternoon': 12, 'evening': 18} -%}

{%- set missing = missing_days() %}

with snapshots as (
    {{ snapshots_of(missing, windows) }}
),

-- what is known since the first event; one row per user of each snapshot
known as (
    select * from {{ ref('int_user_history') }}
    where event_timestamp in (select event_timestamp from snapshots)
),

recent_events as (
    select
        user_id,
        event_date,
        event_type,
        item_id,
        session_key,
        dwell_ms,
        -- whole seconds rounded up: never counted before the page was left
        cast({{ dbt.dateadd('second', 'cast(ceil(dwell_ms / 1000.0) as bigint)', 'event_ts') }} as date) as dwell_day,
        extract(hour from event_ts) as hour_of_day,
        mod({{ dbt.datediff("cast('2000-01-03' as date)", 'event_date', 'day') }}, 7) as weekday,
        event_type not in ('refund', 'exposure') as is_activity
    from {{ ref('fct_events') }}
    where user_id is not null
        and {{ within(90, 'event_date', missing) }}
),

event_days as (
    select
        user_id,
        event_date as on_day,
        {%- for event_type, name in counted.items() %}
        count(case when event_type = '{{ event_type }}' then 1 end) as {{ name }},
        {%- endfor %}
        count(distinct session_key) as sessions,
        count(case when is_activity then 1 end) as activity_events,
        {%- for part, hour in day_parts.items() %}
        count(case when is_activity and hour_of_day >= {{ hour }} and hour_of_day < {{ hour + 6 }} then 1 end) as {{ part }}_events,
        {%- endfor %}
        count(case when is_activity and weekday >= 5 then 1 end) as weekend_events,
        sum(case when is_activity then {{ millionths('sin', 'hour_of_day', 24) }} else 0 end) as hour_sin,
        sum(case when is_activity then {{ millionths('cos', 'hour_of_day', 24) }} else 0 end) as hour_cos,
        sum(case when is_activity then {{ millionths('sin', 'weekday', 7) }} else 0 end) as weekday_sin,
        sum(case when is_activity then {{ millionths('cos', 'weekday', 7) }} else 0 end) as weekday_cos
    from recent_events
    group by user_id, event_date
),

event_windows as (
    select
        event_days.user_id,
        snapshots.snapshot_day,
        {%- for window in windows %}
        {%- for name in counted.values() %}
        sum(case when on_day > before_{{ window }}d then {{ name }} else 0 end) as {{ name }}_{{ window }}d,
        {%- endfor %}
        sum(case when on_day > before_{{ window }}d then sessions else 0 end) as sessions_{{ window }}d,
        count(case when activity_events > 0 and on_day > before_{{ window }}d then 1 end) as active_days_{{ window }}d,
        {%- endfor %}
        sum(activity_events) as activity_events,
        {%- for part in day_parts %}
        sum({{ part }}_events) as {{ part }}_events,
        {%- endfor %}
        sum(weekend_events) as weekend_events,
        sum(hour_sin) as hour_sin,
        sum(hour_cos) as hour_cos,
        sum(weekday_sin) as weekday_sin,
        sum(weekday_cos) as weekday_cos
    from event_days
    inner join snapshots
        on event_days.on_day <= snapshots.snapshot_day
        and event_days.on_day > snapshots.before_90d
    group by event_days.user_id, snapshots.snapshot_day
),

dwell_days as (
    select user_id, event_date as on_day, dwell_day, sum(dwell_ms) as dwell_ms, count(*) as pages
    from recent_events
    where dwell_ms is not null
    group by user_id, event_date, dwell_day
),

dwell_windows as (
    select
        dwell_days.user_id,
        snapshots.snapshot_day,
        {%- for window in windows[1:] %}
        sum(case when dwell_day > before_{{ window }}d then dwell_ms end) as dwell_ms_{{ window }}d,
        sum(case when dwell_day > before_{{ window }}d then pages end) as pages_{{ window }}d
        {{- ',' if not loop.last }}
        {%- endfor %}
    from dwell_days
    inner join snapshots
        on dwell_days.dwell_day <= snapshots.snapshot_day
        and dwell_days.on_day > snapshots.before_90d
    group by dwell_days.user_id, snapshots.snapshot_day
),

-- A distinct item counts once in a window: on the last day it was touched before the snapshot.
item_days as (
    select
        user_id,
        event_type,
        event_date as on_day,
        lead(event_date) over (partition by user_id, event_type, item_id order by event_date) as next_day
    from (
        select distinct user_id, event_type, item_id, event_date
        from recent_events
        where event_type in ({% for event_type in touched %}'{{ event_type }}'{{ ', ' if not loop.last }}{% endfor %})
    ) as touches
),

item_windows as (
    select
        item_days.user_id,
        snapshots.snapshot_day,
        {%- for window in windows %}
        {%- set last_window = loop.last %}
        {%- for event_type, name in touched.items() %}
        count(case when event_type = '{{ event_type }}' and on_day > before_{{ window }}d then 1 end) as {{ name }}_{{ window }}d
        {{- ',' if not (last_window and loop.last) }}
        {%- endfor %}
        {%- endfor %}
    from item_days
    inner join snapshots
        on item_days.on_day <= snapshots.snapshot_day
        and (item_days.next_day is null or item_days.next_day > snapshots.snapshot_day)
        and item_days.on_day > snapshots.before_90d
    group by item_days.user_id, snapshots.snapshot_day
),

-- Orders as they were placed; what came back is taken off on the day it came back.
trade_days as (
    select
        activity.user_id,
        activity.activity_date as on_day,
        coalesce(trade.orders, 0) as orders,
        activity.net_revenue as amount
    from {{ ref('user_daily_activity') }} as activity
    left join {{ ref('int_user_trade_days') }} as trade
        on activity.user_id = trade.user_id and activity.activity_date = trade.trade_date
    where {{ within(90, 'activity.activity_date', missing) }}
        and (trade.orders > 0 or activity.gross_revenue <> 0 or activity.refunded_revenue <> 0)
),

trade_windows as (
    select
        trade_days.user_id,
        snapshots.snapshot_day,
        {%- for window in windows %}
        sum(case when on_day > before_{{ window }}d then orders else 0 end) as orders_{{ window }}d,
        sum(case when on_day > before_{{ window }}d then amount else 0 end) as amount_{{ window }}d
        {{- ',' if not loop.last }}
        {%- endfor %}
    from trade_days
    inner join snapshots
        on trade_days.on_day <= snapshots.snapshot_day
        and trade_days.on_day > snapshots.before_90d
    group by trade_days.user_id, snapshots.snapshot_day
)

select
    known.user_id,
    known.event_timestamp,

    -- how lately and how long; a day that is over lies at least one day back
    {{ days_since('known.first_day', 'known.event_timestamp') }} as tenure_days,
    cast({{ days_since('known.last_active_day', 'known.event_timestamp') }} as double) as days_since_last_event,
    coalesce({{ ratio('1', days_since('known.last_active_day', 'known.event_timestamp')) }}, 0) as activity,
    known.active_days,

    -- counts in the last days
    {%- for window in windows %}
    {%- for name in counted.values() %}
    cast(coalesce(event_windows.{{ name }}_{{ window }}d, 0) as bigint) as {{ name }}_{{ window }}d,
    {%- endfor %}
    {%- for name in touched.values() %}
    coalesce(item_windows.{{ name }}_{{ window }}d, 0) as {{ name }}_{{ window }}d,
    {%- endfor %}
    coalesce(event_windows.active_days_{{ window }}d, 0) as active_days_{{ window }}d,
    cast(coalesce(event_windows.sessions_{{ window }}d, 0) as bigint) as sessions_{{ window }}d,
    cast(coalesce(trade_windows.orders_{{ window }}d, 0) as bigint) as orders_{{ window }}d,
    cast(coalesce(trade_windows.amount_{{ window }}d, 0) as double) as amount_{{ window }}d,
    {%- endfor %}

    -- how deep and how long a visit goes
    {%- for window in windows[1:] %}
    {{ ratio('event_windows.views_' ~ window ~ 'd', 'event_windows.sessions_' ~ window ~ 'd') }} as depth_{{ window }}d,
    {{ ratio('dwell_windows.dwell_ms_' ~ window ~ 'd', 'dwell_windows.pages_' ~ window ~ 'd * 1000') }} as page_dwell_seconds_{{ window }}d,
    {{ ratio('dwell_windows.dwell_ms_' ~ window ~ 'd', 'event_windows.sessions_' ~ window ~ 'd * 1000') }} as session_dwell_seconds_{{ window }}d,
    {%- endfor %}

    -- habits of the last 90 days, on the UTC clock
    {%- for part in day_parts %}
    {{ ratio('event_windows.' ~ part ~ '_events', 'event_windows.activity_events') }} as {{ part }}_share_90d,
    {%- endfor %}
    {{ ratio('event_windows.weekend_events', 'event_windows.activity_events') }} as weekend_share_90d,
    {%- for direction in ['hour_sin', 'hour_cos', 'weekday_sin', 'weekday_cos'] %}
    {{ ratio('event_windows.' ~ direction, 'event_windows.activity_events * 1000000') }} as {{ direction }}_90d,
    {%- endfor %}

    -- purchases since the first one
    known.orders,
    cast({{ days_since('known.first_order_day', 'known.event_timestamp') }} as double) as days_since_first_order,
    cast({{ days_since('known.last_order_day', 'known.event_timestamp') }} as double) as days_since_last_order,
    {{ ratio('known.orders', days_since('known.first_order_day', 'known.event_timestamp')) }} as orders_per_day,
    {{ ratio('known.net_revenue', days_since('known.first_order_day', 'known.event_timestamp')) }} as amount_per_day,
    {{ ratio(dbt.datediff('known.first_order_day', 'known.last_order_day', 'day'), '(known.orders - 1)') }} as days_between_orders,
    sqrt({{ ratio('known.squared_gaps', '(known.orders - 1)') }}) as days_between_orders_rms,
    {{ ratio('known.units', 'known.orders') }} as basket_units,
    {{ ratio('known.items', 'known.orders') }} as basket_items,
    {{ ratio('known.gross_revenue', 'known.orders') }} as order_value,
    {{ ratio('known.gross_revenue', 'known.units') }} as price_level,
    {{ ratio('known.refunded_revenue', 'known.gross_revenue') }} as refund_ratio
from known
inner join snapshots on known.event_timestamp = snapshots.event_timestamp
left join event_windows
    on known.user_id = event_windows.user_id
    and snapshots.snapshot_day = event_windows.snapshot_day
left join item_windows
    on known.user_id = item_windows.user_id
    and snapshots.snapshot_day = item_windows.snapshot_day
left join dwell_windows
    on known.user_id = dwell_windows.user_id
    and snapshots.snapshot_day = dwell_windows.snapshot_day
left join trade_windows
    on known.user_id = trade_windows.user_id
    and snapshots.snapshot_day = trade_windows.snapshot_day
order by known.event_timestamp, known.user_id
