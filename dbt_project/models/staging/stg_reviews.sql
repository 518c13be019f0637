with source as (
    select * from {{ source('landing', 'reviews') }}
    where day <= {{ night() }}
),

renamed as (
    select review_id, event_ts as written_at, user_id, item_id, rating, text
    from source
)

select * from renamed
