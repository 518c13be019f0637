-- Invoice lines -> events: purchases and refunds. Every row that is read comes out; one that is no
-- event says why in `_exclude`. Counts per rule are in README.md here.
WITH line AS (
    SELECT
        _file,
        _row,
        coalesce(Invoice, InvoiceNo) AS invoice,
        -- '85123a' and '85123A ' are one product.
        upper(trim(StockCode)) AS stock_code,
        -- The archive's first sheet spells a missing description 'nan'.
        nullif(upper(trim(regexp_replace(Description, '\s+', ' ', 'g'))), 'NAN') AS description,
        Quantity::BIGINT AS quantity,
        InvoiceDate AS local_ts,
        -- DECIMAL: the same price must be equal to itself whichever file it came from.
        coalesce(Price, UnitPrice)::DECIMAL(18, 4) AS price,
        -- The files hold 13085.0; the shop's own number is 13085.
        coalesce("Customer ID", CustomerID)::BIGINT::VARCHAR AS customer,
        Country AS country
    FROM raw.sales
),

-- Both files hold 2010-12-01 to 2010-12-09. The earlier file is kept because only it still has the
-- invoice numbers of the cancellations there, so a file starts where those before it end.
file_start AS (
    SELECT
        _file,
        max(max(local_ts)::DATE) OVER (
            ORDER BY _file ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS covered_until
    FROM line
    GROUP BY _file
),

-- In the second file a cancellation has neither invoice nor stock code, but the description is that
-- of the product: the code most often sold under it (the smaller code of two equals).
code_of_description AS (
    SELECT description, stock_code
    FROM line
    WHERE quantity > 0 AND price > 0 AND stock_code IS NOT NULL
    GROUP BY description, stock_code
    QUALIFY row_number() OVER (PARTITION BY description ORDER BY count(*) DESC, stock_code) = 1
),

known AS (
    SELECT
        line.*,
        coalesce(line.stock_code, code_of_description.stock_code) AS code,
        (line.local_ts::DATE <= file_start.covered_until) IS TRUE AS is_overlap,
        -- A file may list one line several times (an article scanned twice): each is a sale. Which
        -- of the equal lines is which does not matter, so the nth occurrence names it for good.
        row_number() OVER (
            PARTITION BY
                line._file, line.invoice, coalesce(line.stock_code, line.description),
                line.local_ts, line.quantity, line.price, line.customer
            ORDER BY line._row
        ) AS occurrence
    FROM line
    JOIN file_start USING (_file)
    LEFT JOIN code_of_description USING (description)
),

judged AS (
    SELECT
        *,
        md5(concat_ws(
            '|', coalesce(invoice, ''), coalesce(stock_code, description, ''), local_ts, quantity,
            price, coalesce(customer, ''), occurrence
        )) AS event_id,
        CASE
            WHEN is_overlap THEN 'overlap: kept from the earlier file'
            -- Stock is written off, found or counted at no price and for nobody; the description is
            -- a note ('damaged', '?'), the product's name or nothing.
            WHEN price = 0 AND customer IS NULL THEN 'stock movement: no price, no customer'
            -- Products have five digits (and letters for the variant), or are of the house brand
            -- DCGS, or SP1002. All else is postage, fees, vouchers, discounts, samples and tests.
            WHEN NOT regexp_matches(code, '^([0-9]{5}|DCGS|SP[0-9])')
                THEN 'not a product: ' || code
            WHEN code IS NULL
                THEN 'not a product: ' || coalesce(description, 'no code, no description')
        END AS exclude
    FROM known
),

-- A cancellation does not name the invoice it cancels. It is the customer's latest earlier purchase
-- of the same product at the same price that is large enough, if there is one.
cancelled AS (
    SELECT refund.event_id, purchase.invoice
    FROM judged AS refund
    JOIN judged AS purchase USING (customer, code, price)
    WHERE refund.exclude IS NULL AND refund.quantity < 0
        AND purchase.exclude IS NULL AND purchase.quantity >= -refund.quantity
        AND purchase.local_ts <= refund.local_ts
    QUALIFY row_number() OVER (
        PARTITION BY refund.event_id ORDER BY purchase.local_ts DESC, purchase.invoice DESC
    ) = 1
)

SELECT
    judged.event_id,
    -- InvoiceDate is the wall clock in London; in summer that is an hour ahead of UTC.
    (local_ts AT TIME ZONE 'Europe/London') AT TIME ZONE 'UTC' AS event_ts,
    -- A row without a customer is a guest's: it counts in sales, not in retention.
    customer AS user_id,
    CASE WHEN quantity < 0 THEN 'refund' ELSE 'purchase' END AS event_type,
    code AS item_id,
    -- A refund whose purchase is not found names no order; its own number is in `properties`.
    CASE WHEN quantity < 0 THEN cancelled.invoice ELSE judged.invoice END AS order_id,
    abs(quantity) AS quantity,
    price AS unit_price,
    'GBP' AS currency,
    json_object('country', country, 'invoice', judged.invoice)::VARCHAR AS properties,
    _file,
    _row,
    exclude AS _exclude
FROM judged
LEFT JOIN cancelled USING (event_id)
