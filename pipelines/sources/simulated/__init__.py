"""The simulated city, a file a department. All of them share its ground, its calendar and its weather.

The city is a pure function of (seed, day): every day is drawn from that day's own random streams and, where
something lasts longer than a day, from those of the days before it. So no window changes what another one shows.
"""
