-- Invoice lines -> the catalogue the shop does not publish: one version per product, from the first
-- day it was sold. Only real sales speak for it; notes on stock movements have no price.
WITH sale AS (
    SELECT
        _file,
        _row,
        upper(trim(StockCode)) AS item_id,
        trim(regexp_replace(Description, '\s+', ' ', 'g')) AS title,
        coalesce(Price, UnitPrice)::DECIMAL(18, 4) AS price,
        (InvoiceDate AT TIME ZONE 'Europe/London') AT TIME ZONE 'UTC' AS sold_at
    FROM raw.sales
    WHERE Quantity > 0
        AND coalesce(Price, UnitPrice) > 0
        -- The same rule as in events.sql: what is a product.
        AND regexp_matches(upper(trim(StockCode)), '^([0-9]{5}|DCGS|SP[0-9])')
),

-- One product is spelled in several ways; the most frequent is its title, the first in the alphabet
-- of two equals.
title AS (
    SELECT item_id, title
    FROM sale
    WHERE title <> '' AND lower(title) <> 'nan'
    GROUP BY item_id, title
    QUALIFY row_number() OVER (PARTITION BY item_id ORDER BY count(*) DESC, title) = 1
),

-- The price on the first day. A later one would tell the past about the future; what was charged
-- is on every event.
price AS (
    SELECT item_id, price
    FROM sale
    QUALIFY sold_at::DATE = min(sold_at::DATE) OVER (PARTITION BY item_id)
),

first_price AS (
    SELECT item_id, price
    FROM price
    GROUP BY item_id, price
    QUALIFY row_number() OVER (PARTITION BY item_id ORDER BY count(*) DESC, price) = 1
),

first_sale AS (
    SELECT item_id, date_trunc('day', sold_at) AS valid_from, _file, _row
    FROM sale
    QUALIFY row_number() OVER (PARTITION BY item_id ORDER BY sold_at, _file, _row) = 1
)

SELECT item_id, title, price, valid_from, _file, _row
FROM first_sale
JOIN title USING (item_id)
JOIN first_price USING (item_id)
