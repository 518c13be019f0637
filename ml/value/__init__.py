"""What is a customer worth? Probability models of when customers buy and what they spend.

Each is fitted by maximum likelihood on four numbers per customer (`History`, mean spend), knows how
sure its parameters are, and tells what to expect of every customer at any horizon.
"""
