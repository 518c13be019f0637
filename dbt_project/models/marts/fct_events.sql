{#- A view: whether an item is known changes when its catalogue entry arrives, for events long past.
    Everything that costs something is kept in int_events. -#}
{{ config(materialized='view') }}

with events as (
    select * from {{ ref('int_events') }}
),

catalogue as (
    select item_id from {{ ref('int_catalogue') }}
)

select
    events.event_id,
    events.event_ts,
    events.event_date,
    events.user_id,
    events.session_key,
    events.event_type,
    events.item_id,
    events.order_id,
    events.quantity,
    events.unit_price,
    events.currency,
    events.dwell_ms,
    events.query,
    events.channel,
    events.properties,
    catalogue.item_id is not null as is_known_item
from events
left join catalogue on events.item_id = catalogue.item_id
