with source as (
    select * from {{ source('landing', 'events') }}
    where day <= {{ night() }}
),

renamed as (
    select
        event_id,
        event_ts,
        -- the name of the file's folder: a filter on it opens only those days' files
        day as event_date,
        user_id,
        -- A guest is known by the session, else by the order, else only by this one event.
        case
            when user_id is not null then user_id
            when session_id is not null then concat('session:', session_id)
            when order_id is not null then concat('order:', order_id)
            else concat('event:', event_id)
        end as visitor_key,
        event_type,
        event_type not in ('refund', 'exposure') as is_activity,
        item_id,
        order_id,
        quantity,
        unit_price,
        coalesce(currency, '{{ var("currency") }}') as currency,
        dwell_ms,
        query,
        channel,
        {{ json_text('properties', 'country') }} as country,
        properties
    from source
)

select * from renamed
