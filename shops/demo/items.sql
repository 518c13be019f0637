-- A catalogue file holds the items that are new or changed since the last -> versions of items.
SELECT
    sku AS item_id,
    name AS title,
    "text" AS description,
    department || ' > ' || kind AS category_path,
    maker AS brand,
    price_eur AS price,
    -- Local time with its offset; the session's zone is UTC.
    changed_at::TIMESTAMPTZ::TIMESTAMP AS valid_from,
    _file,
    _row
FROM raw.catalogue
