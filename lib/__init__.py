from lib import interpreter

interpreter.check()
