with source as (
    select * from {{ source('landing', 'messages') }}
    where day <= {{ night() }}
),

renamed as (
    select
        message_id,
        event_ts as sent_at,
        conversation_id,
        user_id,
        sender,
        item_id,
        order_id,
        text
    from source
)

select * from renamed
