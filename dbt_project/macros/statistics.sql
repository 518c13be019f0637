{#- Wilson's 95 % interval of `hits` out of `n` as two columns named `low` and `high`; it stays within 0 and 1
    however small n is. Source: Wilson (1927). -#}
{% macro wilson(hits, n) -%}
    {%- set z = 1.959963984540054 -%}
    {%- set n = 'cast(' ~ n ~ ' as double)' -%}
    {%- set middle = '(' ~ hits ~ ' + ' ~ z * z / 2 ~ ') / (' ~ n ~ ' + ' ~ z * z ~ ')' -%}
    {%- set half = z ~ ' * sqrt(' ~ hits ~ ' * (' ~ n ~ ' - ' ~ hits ~ ') / ' ~ n ~ ' + ' ~ z * z / 4 ~ ') / (' ~ n ~ ' + ' ~ z * z ~ ')' -%}
    greatest(cast(0 as double), {{ middle }} - {{ half }}) as low,
    least(cast(1 as double), {{ middle }} + {{ half }}) as high
{%- endmacro %}
