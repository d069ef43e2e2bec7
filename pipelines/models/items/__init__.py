"""Pictures and messages on a frozen test: the model beside plain baselines, damaged, drawn, told and counted."""
