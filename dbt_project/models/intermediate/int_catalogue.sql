with versions as (
    select
        *,
        row_number() over (partition by item_id order by valid_from desc) as versions_ago
    from {{ ref('stg_items') }}
)

select item_id, title, description, category_path, category, brand, price, valid_from
from versions
where versions_ago = 1
