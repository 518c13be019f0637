-- Online Retail II counted from its two raw files alone, by the rules in shops/online_retail/README.md,
-- knowing nothing of the platform's own SQL. {folder} is where the files are, {night} the last day.
CREATE TABLE sheet AS
SELECT 1 AS sheet, Invoice AS invoice, StockCode AS code, Description AS text, Quantity AS pieces,
    InvoiceDate AS london, CAST(Price AS DECIMAL(18, 4)) AS price, "Customer ID" AS customer
FROM '{folder}/2009-2010.parquet'
UNION ALL
SELECT 2, InvoiceNo, StockCode, Description, Quantity,
    InvoiceDate, CAST(UnitPrice AS DECIMAL(18, 4)), CustomerID
FROM '{folder}/2010-2011.parquet';

UPDATE sheet SET code = upper(trim(code)), text = regexp_replace(upper(trim(text)), '\s+', ' ', 'g');

-- A code that is missing is the one most often sold under the description; 'nan' is no description.
CREATE TABLE known_as AS
SELECT text, first(code ORDER BY times DESC, code) AS code
FROM (
    SELECT text, code, count(*) AS times
    FROM sheet
    WHERE pieces > 0 AND price > 0 AND code IS NOT NULL AND text <> 'NAN'
    GROUP BY ALL
)
GROUP BY text;

CREATE TABLE sale AS
SELECT invoice, sheet.customer, coalesce(sheet.code, known_as.code) AS product, pieces, price,
    timezone('UTC', timezone('Europe/London', london)) AS moment, row_number() OVER () AS line
FROM sheet LEFT JOIN known_as USING (text)
-- the second sheet begins where the first one ends
WHERE (sheet = 1 OR london >= TIMESTAMP '2010-12-10')
    -- stock that was found, lost or counted
    AND NOT (price = 0 AND sheet.customer IS NULL);

-- Postage, fees, vouchers, samples and lines that nothing is known of are no products.
DELETE FROM sale
WHERE product IS NULL OR NOT (
    product[1:5] SIMILAR TO '[0-9]{{5}}' OR product LIKE 'DCGS%' OR product SIMILAR TO 'SP[0-9].*');

-- A cancellation belongs to the latest purchase until then by the same customer of the same product at
-- the same price and of at least as many pieces.
CREATE TABLE given_back AS
SELECT back.line, max(ROW(bought.moment, bought.invoice)) AS found, max(-back.pieces * back.price) AS value
FROM sale AS back, sale AS bought
WHERE back.pieces < 0 AND bought.pieces >= -back.pieces AND bought.moment <= back.moment
    AND back.customer = bought.customer AND back.product = bought.product AND back.price = bought.price
GROUP BY back.line;

CREATE TABLE bought AS
SELECT invoice, min(customer) AS customer, min(moment) AS moment, sum(pieces * price) AS paid,
    coalesce((SELECT sum(value) FROM given_back WHERE found[2] = invoice), 0) AS returned
FROM sale
WHERE pieces > 0
GROUP BY invoice;

CREATE TABLE came AS
SELECT DISTINCT customer, date_trunc('month', moment)::DATE AS month
FROM sale
WHERE pieces > 0 AND customer IS NOT NULL;

CREATE TABLE figure AS
WITH per_customer AS (
    SELECT customer, count(*) AS orders
    FROM bought
    WHERE customer IS NOT NULL AND paid > returned
    GROUP BY customer
)
SELECT 'users' AS name, count(DISTINCT customer)::DECIMAL(18, 4) AS value FROM sale
UNION ALL SELECT 'customers', count(*) FROM per_customer
UNION ALL SELECT 'customers who came back', count(*) FROM per_customer WHERE orders > 1
UNION ALL SELECT 'orders', count(*) FROM bought
UNION ALL SELECT 'orders of guests', count(*) FROM bought WHERE customer IS NULL
UNION ALL SELECT 'valid orders', count(*) FROM bought WHERE paid > returned
UNION ALL SELECT 'gross revenue', sum(pieces * price) FROM sale WHERE pieces > 0
UNION ALL SELECT 'refunded', sum(-pieces * price) FROM sale WHERE pieces < 0
UNION ALL SELECT 'net revenue', sum(pieces * price) FROM sale
UNION ALL SELECT 'net revenue of known users', sum(pieces * price) FROM sale WHERE customer IS NOT NULL
UNION ALL SELECT 'refunds that name an order', count(*) FROM given_back;

-- A month counts once it is over by the end of the night.
CREATE TABLE cohort AS
WITH first_month AS (SELECT customer, min(month) AS cohort FROM came GROUP BY customer),
size AS (SELECT cohort, count(*) AS customers FROM first_month GROUP BY cohort),
calendar AS (
    SELECT DISTINCT month FROM came WHERE month + INTERVAL 1 MONTH <= DATE '{night}' + 1
)
SELECT size.cohort, datediff('month', size.cohort, calendar.month) AS months_later, size.customers,
    count(came.customer) AS returned
FROM size
JOIN calendar ON calendar.month >= size.cohort
LEFT JOIN first_month ON first_month.cohort = size.cohort
LEFT JOIN came ON came.customer = first_month.customer AND came.month = calendar.month
GROUP BY ALL;
