with source as (
    select * from {{ source('landing', 'items') }}
    where day <= {{ night() }}
),

renamed as (
    select
        item_id,
        title,
        description,
        category_path,
        {{ path_root('category_path') }} as category,
        brand,
        price,
        valid_from
    from source
)

select * from renamed
