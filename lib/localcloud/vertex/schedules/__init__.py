"""ScheduleService: schedules of pipeline jobs."""
