-- Invoice lines -> the catalogue the shop does not publish: one version per product, from the first
-- day it was sold. Only real sales speak for it; notes on stock movements have no price.
WITH sale AS (
    SELECT
        _file,
        _row,
        upper(trim(StockCode)) AS item_id,
        trim(regexp_replace(Description, '\s+', ' ', 'g'), ' *') AS title,
        coalesce(Price, UnitPrice)::DECIMAL(18, 4) AS price,
        InvoiceDate AS local_ts
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

first_sale AS (
    SELECT item_id, min({'local_ts': local_ts, '_file': _file, '_row': _row}) AS first
    FROM sale
    GROUP BY item_id
),

-- The most frequent price of the first day, the lower of two equals. A later one would tell the past
-- about the future; what was charged is on every event.
first_price AS (
    SELECT item_id, price
    FROM sale
    JOIN first_sale USING (item_id)
    WHERE local_ts::DATE = first.local_ts::DATE
    GROUP BY item_id, price
    QUALIFY row_number() OVER (PARTITION BY item_id ORDER BY count(*) DESC, price) = 1
)

SELECT
    item_id,
    title,
    price,
    -- Midnight UTC before the first sale, so that no event is earlier than its item.
    date_trunc(
        'day', (first.local_ts AT TIME ZONE 'Europe/London') AT TIME ZONE 'UTC'
    ) AS valid_from,
    first._file,
    first._row
FROM first_sale
JOIN title USING (item_id)
JOIN first_price USING (item_id)
