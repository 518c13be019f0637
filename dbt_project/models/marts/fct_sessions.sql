{#- Incremental: every session with an event in the window is built again, whole, from its first event
    on, however long ago that was. -#}
{{ config(
    materialized='incremental',
    incremental_strategy='replace_days',
    on_schema_change='fail',
    meta={'replace_by': 'ended_at'},
) }}

{#- asked first, so that the scan below names a day that the storage can skip by -#}
{%- if is_incremental() -%}
    {%- set first_day = run_query(
        'select cast(min(session_started_at) as date) from ' ~ ref('fct_events') ~ ' where event_date >= ' ~ window_start()
    ).columns[0].values()[0] -%}
{%- endif %}

with events as (
    select * from {{ ref('fct_events') }}
    where is_activity
    {% if is_incremental() %}
        and event_date >= {% if first_day %}cast('{{ first_day }}' as date){% else %}{{ window_start() }}{% endif %}
    {% endif %}
)

select
    session_key,
    min(user_id) as user_id,
    cast(min(event_ts) as date) as session_date,
    min(event_ts) as started_at,
    max(event_ts) as ended_at,
    count(*) as events,
    count(case when event_type = 'view' then 1 end) as views,
    count(distinct case when event_type = 'view' then item_id end) as items_viewed,
    count(case when event_type = 'cart_add' then 1 end) as cart_adds,
    count(case when event_type = 'checkout' then 1 end) as checkouts,
    count(distinct case when event_type = 'purchase' then order_id end) as purchases,
    {{ dbt.datediff('min(event_ts)', 'max(event_ts)', 'millisecond') }} as duration_ms,
    cast(sum(dwell_ms) as bigint) as dwell_ms,
    count(case when event_type in ('view', 'search') then 1 end) as depth,
    {{ first_by('channel', ['event_ts', 'event_id']) }} as channel
from events
group by session_key
having {{ in_window('max(event_ts)') }}
order by ended_at
